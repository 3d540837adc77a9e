//! The binary `culvert-demo`; see the library.

fn main() -> std::process::ExitCode {
    culvert_demo::main()
}
