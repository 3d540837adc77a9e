//! Which of several sessions a call goes to.

use culvert_proto::connect_name::ConnectName;

use super::{Lookup, Served, Target};

/// The answer to a look-up among `all`.
pub(super) fn chosen<S: Target>(served: Option<&Served<S>>, all: &[Served<S>]) -> Lookup<S> {
    match served {
        Some(served) => Lookup::Session(served.session.clone(), served.service.priority),
        None if !all.is_empty() => Lookup::Moving,
        None => Lookup::Offline,
    }
}

/// So many calls more may be in flight on a session that is near before another one is chosen.
const NEAR: usize = 8;

/// Calls in flight, as they count against a session.
fn burden<S: Target>(served: &Served<S>) -> usize {
    let far = if served.session.is_near() { 0 } else { NEAR };
    served.session.load().saturating_add(far)
}

/// Two at random, the one with less to do. Where one of them takes no calls, any that does.
pub(super) fn choose<S: Target>(sessions: &[Served<S>]) -> Option<&Served<S>> {
    let count = sessions.len();
    if count < 2 {
        return sessions.first().filter(|only| !only.session.is_closing());
    }
    let first = fastrand::usize(..count);
    // Another one: as far from the first as chance will have it, but not all the way around.
    let second = (first + fastrand::usize(1..count)) % count;
    let (one, other) = (&sessions[first], &sessions[second]);
    match (one.session.is_closing(), other.session.is_closing()) {
        (false, false) if burden(other) < burden(one) => Some(other),
        (false, _) => Some(one),
        (true, false) => Some(other),
        (true, true) => {
            let mut rest = sessions[first..].iter().chain(&sessions[..first]);
            rest.find(|served| !served.session.is_closing())
        }
    }
}

/// The one with the least to do of those that declare a name and take calls.
pub(super) fn least<'s, S: Target>(
    sessions: &'s [Served<S>],
    name: &ConnectName,
) -> Option<&'s Served<S>> {
    if sessions
        .iter()
        .all(|served| served.service.names.contains(name))
    {
        return choose(sessions);
    }
    let declares = |served: &&Served<S>| served.service.names.contains(name);
    let open = |served: &&Served<S>| !served.session.is_closing();
    let declaring = sessions.iter().filter(declares).filter(open);
    declaring.min_by_key(|served| served.session.load())
}
