//! `tessera completions SHELL`: a script that teaches the shell Tessera's commands and options.

use std::io::{self, Write};

use clap::CommandFactory;

use super::args::{Arguments, CompletionsArgs};

/// Writes the script.
///
/// # Errors
/// Where `output` can't be written to. A pipe that its reader has closed is none.
pub fn run(arguments: &CompletionsArgs, output: &mut dyn Write) -> io::Result<()> {
    // Into memory first: the generator panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "tessera", &mut script);
    match output.write_all(&script).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_learns_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let mut output = Vec::new();
            run(&CompletionsArgs { shell }, &mut output).unwrap();
            let script = String::from_utf8(output).unwrap();
            for word in ["serve", "predict", "preprocess", "check", "models", "completions", "admin-port"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
