//! `lvs-node`: takes on a role for the VIPs of a TOML file. Run it with `--help`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main_with(std::env::args_os())
}
