//! The settings: valid and invalid values, and the texts of `--help` and `--version`.

use clap::CommandFactory as _;
use oddswire::config::Config;

use crate::harness::process::{Process, TOKEN, refused, run, temporary};

#[tokio::test]
async fn invalid_value_exits_with_2_and_names_the_allowed_values() {
    let long_topic = "t".repeat(65);
    let cases = [
        ("listen", "8000", "an address and a port"),
        ("listen", "localhost:8000", "127.0.0.1:8000"),
        ("listen", "127.0.0.1:65536", "an address and a port"),
        ("topics", "odds,Odds", "1 to 64 bytes of a-z, 0-9 and _"),
        ("topics", "odds,,progress", "1 to 64 bytes"),
        ("topics", &long_topic, "1 to 64 bytes"),
        ("topics", "a\nb", "1 to 64 bytes"),
        ("log-format", "xml", "auto, term, json"),
        ("log-level", "loud", "error, warn, info, debug"),
        ("history-messages", "10000001", "from 0 to 10000000"),
        ("history-messages", "many", "from 0 to 10000000"),
        ("state-keys", "0", "from 1 to 10000000"),
        ("state-keys", "-1", "from 1 to 10000000"),
        ("history-bytes", "8 apples", "such as 16KiB or 8MiB"),
        ("outbox-bytes", "1023", "from 1.0 KiB to 1.0 GiB"),
        ("memory-budget", "1023", "from 1.0 KiB to 1.0 TiB"),
        ("memory-budget", "1048575", "at least outbox-bytes, which is 1048576 bytes"),
        ("publish-message-bytes", "63", "from 64 B to 1.0 GiB"),
        ("publish-batch-messages", "0", "from 1 to 1000000"),
        ("publish-batch-messages", "1000001", "from 1 to 1000000"),
        ("client-message-bytes", "17MiB", "from 125 B to 16.0 MiB"),
        ("history-age", "1", "such as 250ms, 30s or 1h"),
        ("write-timeout", "99ms", "from 100ms to 1h"),
        ("write-timeout", "3601s", "from 100ms to 1h"),
        ("drain-timeout", "soon", "from 1ms to 1h"),
        ("suppress-unchanged", "perhaps", "true, false"),
        ("idle-timeout", "25s", "more than ping-interval, which is 25s"),
        ("publish-body-bytes", "64KiB", "more than publish-message-bytes, which is 65536 bytes"),
        ("publish-token-file", "/nowhere/token", "No such file"),
    ];
    for (setting, value, allowed) in cases {
        let shown = value.lines().next().unwrap();
        let shown = if setting == "publish-body-bytes" { "65536" } else { shown };
        let says = [setting, shown, allowed];
        refused(&run(&[&format!("--{setting}={value}")], &[]).await, &says);
        let variable = format!("ODDSWIRE_{}", setting.to_uppercase().replace('-', "_"));
        refused(&run(&[], &[(&variable, value)]).await, &says);
        refused(&run(&["serve"], &[(&variable, value)]).await, &says);
    }
}

#[tokio::test]
async fn limits_of_the_allowed_ranges_are_accepted() {
    let arguments = [
        "--listen=127.0.0.1:0",
        "--state-keys=1",
        "--history-messages=0",
        "--history-bytes=0",
        "--outbox-bytes=1024",
        "--memory-budget=1024",
        "--client-message-bytes=125B",
        "--publish-message-bytes=64",
        "--publish-body-bytes=1KiB",
        "--publish-batch-messages=1000000",
        "--write-timeout=1h",
        "--ping-interval=100ms",
        "--idle-timeout=101ms",
        "--history-age=30days",
        "--drain-timeout=1ms",
        "--sse-comment-interval=3600s",
        "--suppress-unchanged=false",
        "--topics= odds , progress ",
    ];
    let process = Process::start(&arguments, &[]).await;
    process.signal("TERM");
    assert_eq!(process.end().await.code, Some(0));
}

#[tokio::test]
async fn empty_value_or_unknown_flag_is_refused_in_one_line() {
    for name in ["LISTEN", "TOPICS", "PUBLISH_TOKEN", "HISTORY_MESSAGES", "OUTBOX_BYTES", "WRITE_TIMEOUT", "LOG_LEVEL"]
    {
        let variable = format!("ODDSWIRE_{name}");
        let flag = name.to_lowercase().replace('_', "-");
        refused(&run(&[], &[(&variable, "")]).await, &[&flag]);
        refused(&run(&[&format!("--{flag}=")], &[]).await, &[&flag]);
    }
    refused(&run(&["--lissten=127.0.0.1:0"], &[]).await, &["'--lissten'", "--listen"]);
    refused(&run(&["servee"], &[]).await, &["'servee'", "serve"]);
    refused(&run(&["health", "--timeout=0s"], &[]).await, &["timeout", "0s", "from 1ms to 1m"]);
}

#[tokio::test]
async fn invalid_token_is_refused_without_being_shown() {
    for secret in ["mar malade", "märmalade", "mar\nmalade"] {
        for ended in [
            run(&["--publish-token", secret], &[]).await,
            run(&[], &[("ODDSWIRE_PUBLISH_TOKEN", secret)]).await,
            run(&["serve"], &[("ODDSWIRE_PUBLISH_TOKEN", secret)]).await,
        ] {
            refused(&ended, &["publish-token", "visible ASCII characters without spaces"]);
            assert!(!ended.stderr.contains("malade"), "{}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn token_can_be_read_from_a_file() {
    let file = temporary("token", "  sesame-4711\r\n");
    let process = Process::start(&["--listen=127.0.0.1:0", "--publish-token-file", &file], &[]).await;
    assert_eq!((process.publish(TOKEN).await, process.publish("wrong").await), (200, 401));

    let both = [("ODDSWIRE_PUBLISH_TOKEN_FILE", file.as_str()), ("ODDSWIRE_PUBLISH_TOKEN", "another")];
    refused(&run(&[], &both).await, &["publish-token-file", &file, "duplicate name 'default'"]);
    std::fs::remove_file(&file).unwrap();
    refused(&run(&[], &both[..1]).await, &["publish-token-file", &file, "No such file"]);
}

#[tokio::test]
async fn invalid_token_file_is_refused_without_showing_its_content() {
    for (name, contents, reason) in [
        ("empty", "\n", "it has no publisher"),
        ("two", "marmalade\nsecond\n", "line 2: duplicate name 'default'"),
        ("spaces", "mar malade", "line 1: expected 1 or more visible ASCII characters without spaces"),
    ] {
        let file = temporary(name, contents);
        let ended = run(&["--publish-token-file", &file], &[]).await;
        refused(&ended, &["publish-token-file", &file, reason]);
        assert!(!ended.stderr.contains("malade"), "{}", ended.stderr);
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn help_lists_every_setting_and_variable_and_no_secret() {
    let secret = [("ODDSWIRE_PUBLISH_TOKEN", TOKEN)];
    for arguments in [&["--help"][..], &["-h"], &["serve", "--help"]] {
        let ended = run(arguments, &secret).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(!ended.stdout.contains(TOKEN));
        let text = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        let command = Config::command();
        let settings: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        assert!(settings.contains(&"listen") && settings.len() > 15);
        // `--reset-data` has no variable, because a variable would reset the data at every start.
        assert!(text.contains("--reset-data") && !text.contains("ODDSWIRE_RESET_DATA"));
        for setting in settings.into_iter().filter(|name| !["help", "version", "reset-data"].contains(name)) {
            let variable = format!("[env: ODDSWIRE_{}", setting.to_uppercase().replace('-', "_"));
            assert!(text.contains(&format!("--{setting} <")), "{setting}: {text}");
            assert!(text.contains(&variable), "{variable}: {text}");
        }
    }
}

#[tokio::test]
async fn version_prints_the_program_and_its_version() {
    for flag in ["--version", "-V"] {
        let ended = run(&[flag], &[]).await;
        let expected = format!("oddswire {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((ended.code, ended.stdout, ended.stderr), (Some(0), expected, String::new()));
    }
}
