//! How often what happened in conversations: whoever means to cover something looks here.

macro_rules! seen {
    ($($(#[$doc:meta])* $what:ident),* $(,)?) => {
        /// Counts of what happened.
        #[derive(Debug, Default, Clone, Copy)]
        pub(in crate::mux) struct Seen {
            $($(#[$doc])* pub(in crate::mux) $what: u64,)*
        }

        #[cfg(test)]
        impl Seen {
            pub(in crate::mux) fn add(&mut self, more: Self) {
                $(self.$what += more.$what;)*
            }

            pub(in crate::mux) fn assert_everything_happened(&self) {
                $(assert!(self.$what > 0, "never happened: {}", stringify!($what));)*
            }
        }
    };
}

seen! {
    steps,
    calls,
    bytes,
    heads,
    ends,
    cut_short,
    blocked_writes,
    windows_grown,
    windows_shrunk,
    overloads,
    /// Of these on a session of several tenants.
    overloads_of_tenants,
    resets,
    stops,
    refusals,
    full_sessions,
    notices,
    drains,
    ids_used_up,
    closed,
    dead_peers,
    lost_in_mid_air,
}
