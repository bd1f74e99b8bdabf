//! The command line, as somebody types it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{root, tessera};

/// The binary with the repository's models, outside of the repository's folder.
fn command(arguments: &[&str]) -> Command {
    let mut command = tessera();
    command.current_dir(std::env::temp_dir()).args(arguments);
    command
}

fn with_models(arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.arg("--models").arg(root().join("models"));
    command
}

fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn example(name: &str) -> String {
    root().join("examples").join(name).display().to_string()
}

#[test]
fn predict_prints_one_object_a_line() {
    let (cat, coffee) = (example("cat.jpg"), example("coffee.jpg"));
    let output = with_models(&["predict", &cat, &coffee, "--json"]).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    assert_eq!((&lines[0]["image"], &lines[0]["label"]), (&Value::from(cat), &Value::from("Egyptian cat")));
    assert_eq!(lines[1]["label"], "espresso");
    assert!(lines[0]["confidence"].as_f64().unwrap() > 0.7);
}

#[test]
fn predict_shows_a_table_and_goes_on_after_a_bad_picture() {
    let (boot, scripts) = (example("ankle-boot.png"), root().join("Makefile").display().to_string());
    let output = with_models(&["predict", &scripts, &boot, "--model", "fashion-vit", "--top-k", "3"]).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("Makefile") && stderr.contains("not an image"), "{stderr}");
    assert_eq!(stdout.lines().count(), 4, "a heading and three labels: {stdout}");
    assert!(stdout.contains("LABEL") && stdout.contains("Ankle boot"), "{stdout}");
}

#[test]
fn nobody_need_listen_to_remarks() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (boot, missing) = (example("ankle-boot.png"), example("none.png"));
    let output = with_models(&["predict", &missing, &boot, "--model", "fashion-vit"]).stderr(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).0.contains("Ankle boot"));
}

#[test]
fn preprocess_writes_what_the_model_sees() {
    let folder = tempfile::tempdir().unwrap();
    let picture = root().join("tests/golden/images/chelsea_444.jpg").display().to_string();
    let write = |arguments: &[&str]| {
        let file = folder.path().join(format!("{}.npy", arguments.join("")).replace('/', "_"));
        let mut command = with_models(&["preprocess", &picture, "--output", &file.display().to_string()]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output).1);
        std::fs::read(file).unwrap()
    };
    let by_model = write(&["--model", "imagenet"]);
    assert!(by_model.starts_with(b"\x93NUMPY\x01\x00"));
    assert_eq!(by_model.len(), 128 + 4 * 3 * 224 * 224);
    assert_eq!(by_model, write(&["--preset", "hf"]));
    let config = root().join("models/imagenet/1/preprocessor_config.json").display().to_string();
    assert_eq!(by_model, write(&["--preprocessor-config", &config]));
    // TensorFlow does not antialias, so it must differ.
    assert_ne!(by_model, write(&["--preset", "tf"]));
    assert_ne!(by_model, write(&["--preset", "hf-fast"]));

    let golden = image::open(root().join("tests/golden/pil/chelsea_444.jpg.png")).unwrap().to_rgb8();
    let values: Vec<f32> =
        by_model[128..].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    for (x, y, pixel) in golden.enumerate_pixels() {
        for channel in 0..3 {
            let value = values[(channel * 224 + y as usize) * 224 + x as usize];
            let level = ((value + 1.0) * 127.5).round();
            assert_eq!(level as u8, pixel[channel], "at {x}, {y}, channel {channel}");
        }
    }
}

#[test]
fn models_and_check_look_at_the_repository() {
    let output = with_models(&["models"]).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.contains("imagenet") && stdout.contains("pixel_values float32[?,3,224,224]"), "{stdout}");
    let output = with_models(&["check"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output).1);
}

#[test]
fn check_says_everything_that_is_wrong_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[server]\nprot = 8081\nport = \"many\"\n\n[limits]\ninstances = -1\n").unwrap();
    let output = with_models(&["check", "--config", &config.display().to_string()]).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    for words in ["server.prot", "port", "server.port", "limits.instances", ":2", ":3", ":6"] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    assert!(stderr.lines().all(|line| line.starts_with("error: ")), "{stderr}");
    // The models that can't be loaded, all of them, though a setting is wrong too.
    let mut all = command(&["check", "--models"]);
    let output = all.arg(root().join("tests/models")).env("TESSERA__SERVER__PORT", "many").output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    for model in ["corrupt", "missing-label", "one-channel", "wrong-size", "server.port"] {
        assert!(stderr.contains(model), "{model}: {stderr}");
    }
}

#[test]
fn measure_says_what_the_engine_can_do() {
    let measure = |arguments: &[&str], binding: &str| {
        let mut command = with_models(&["measure", "fashion-vit", "--duration", "50ms"]);
        command.args(arguments).env("TESSERA__ENGINE__IO_BINDING", binding).output().unwrap()
    };
    let output = measure(&["--json", "--batch", "1,3"], "on");
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["provider"], &report["bound_memory"]), (&"cpu".into(), &true.into()), "{report}");
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|result| result["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    assert!(results.iter().all(|result| result["items_per_second"].as_f64().unwrap() > 0.0), "{report}");
    let (stdout, _) = text(&measure(&["--batch", "2"], "auto"));
    assert!(stdout.contains("BATCH") && !stdout.contains("bound"), "{stdout}");
    assert_eq!(measure(&["--batch", "0"], "auto").status.code(), Some(2));
}

#[test]
fn misspelt_words_get_the_nearest() {
    for (arguments, nearest) in [
        (vec!["serv"], "serve"),
        (vec!["serve", "--prot", "1"], "--port"),
        (vec!["predict", "x.jpg", "--jsn"], "--json"),
    ] {
        let output = command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output).1.contains(nearest), "{}", text(&output).1);
    }
    let output = with_models(&["check"]).env("TESSERA__SERVER__PROT", "1").output().unwrap();
    assert!(text(&output).1.contains("TESSERA__SERVER__PORT"), "{}", text(&output).1);
    let output = with_models(&["check"]).env("TESSERA_PORT", "1").output().unwrap();
    let (_, stderr) = text(&output);
    assert!(output.status.success() && stderr.starts_with("warning: TESSERA_PORT"), "{stderr}");
    let output = with_models(&["predict", "x.jpg", "--model", "imagnet"]).output().unwrap();
    assert!(text(&output).1.contains("imagenet"), "{}", text(&output).1);
}

#[test]
fn help_version_and_completions_need_no_runtime() {
    let nowhere = "/nowhere/libonnxruntime.so";
    for arguments in [vec!["--help"], vec!["--version"], vec!["serve", "--help"], vec!["completions", "bash"]] {
        let output = command(&arguments).env("ORT_DYLIB_PATH", nowhere).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}");
    }
    let output = with_models(&["check"]).env("ORT_DYLIB_PATH", nowhere).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(nowhere) && stderr.contains("make runtime"), "{stderr}");
    // A library, but not this one.
    let output = with_models(&["check"]).env("ORT_DYLIB_PATH", "/lib/x86_64-linux-gnu/libc.so.6").output().unwrap();
    assert!(!output.status.success() && text(&output).1.contains("ONNX Runtime"), "{}", text(&output).1);
}

#[test]
fn a_provider_that_cannot_be_had_is_an_error_unless_it_may_fall_back() {
    let output = with_models(&["check"]).env("TESSERA__ENGINE__PROVIDER", "cuda").output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("cuda") && stderr.contains("fallback"), "{stderr}");
    let mut command = with_models(&["check"]);
    command.env("TESSERA__ENGINE__PROVIDER", "cuda").env("TESSERA__ENGINE__FALLBACK", "true");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output).1);
    assert!(text(&output).0.contains("cpu"));
}
