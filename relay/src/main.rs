//! `culvert-relay`: the public end of the tunnel.

/// Instead of the C library's: docs/adr/0010.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    culvert_relay::cli::main()
}
