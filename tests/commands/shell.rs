//! Shell completions, manual pages and help texts.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::harness::command::Running;
use crate::harness::program::is_installed;

/// Passes a text to a program and returns its standard error. `None` if the program is not installed.
fn run_checker(program: &str, arguments: &[&str], version: &str, text: &str) -> Option<String> {
    if !is_installed(program, Command::new(program).arg(version)) {
        return None;
    }
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {said}");
    Some(said)
}

#[tokio::test]
async fn completions_exist_for_every_shell_and_bash_accepts_them() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = Running::run(&["completions", shell], &[]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["tail", "publish", "replay", "demo", "top", "from-line"] {
            assert!(ended.stdout.contains(word), "{shell}: {word}");
        }
        if shell == "bash" {
            assert_eq!(run_checker("bash", &["-n"], "--version", &ended.stdout).as_deref(), Some(""));
        }
    }
    Running::run(&["completions", "cmd"], &[]).await.failed(2, &["cmd", "bash"]);
}

#[tokio::test]
async fn manual_pages_have_no_warnings_and_no_secrets() {
    let environment = [("ODDSWIRE_PUBLISH_TOKEN", "marmalade"), ("ODDSWIRE_TOKEN", "marmalade")];
    for command in ["", "serve", "demo", "health", "tail", "publish", "replay", "top", "completions", "man"] {
        let arguments = if command.is_empty() { vec!["man"] } else { vec!["man", command] };
        let ended = Running::run(&arguments, &environment).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command}");
        assert!(ended.stdout.contains(".TH") && !ended.stdout.contains("marmalade"), "{command}: {}", ended.stdout);
        assert!(
            ended.stdout.contains(concat!("\"oddswire ", env!("CARGO_PKG_VERSION"), "\"")),
            "{command}: the page names the version"
        );
        if let Some(said) = run_checker("groff", &["-man", "-Tutf8", "-ww"], "--version", &ended.stdout) {
            assert_eq!(said, "", "{command}");
        }
    }
    Running::run(&["man", "dance"], &[]).await.failed(2, &["unknown command 'dance'", "tail"]);
}

#[tokio::test]
async fn help_of_every_command_shows_no_secrets() {
    let environment = [("ODDSWIRE_PUBLISH_TOKEN", "marmalade"), ("ODDSWIRE_TOKEN", "marmalade")];
    for command in ["demo", "tail", "publish", "replay"] {
        let ended = Running::run(&[command, "--help"], &environment).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("_TOKEN") && !ended.stdout.contains("marmalade"), "{}", ended.stdout);
    }
}
