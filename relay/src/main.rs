//! `culvert-relay`: the public end of the tunnel.

fn main() -> std::process::ExitCode {
    culvert_relay::cli::main()
}
