//! `culvert-connect`: a local proxy on a caller's machine.

fn main() -> std::process::ExitCode {
    culvert_connect::cli::main()
}
