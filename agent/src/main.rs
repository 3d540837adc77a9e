//! `culvert-agent`: the private end of the tunnel.

fn main() -> std::process::ExitCode {
    culvert_agent::cli::main()
}
