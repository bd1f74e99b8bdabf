use crate::engine::onnx::Provider;
use crate::observe::LogFormat;
use std::collections::BTreeSet;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::*;

/// A directory with a `config.toml` of this text, or without one.
struct Case {
    directory: tempfile::TempDir,
    sources: Sources,
}

fn case(file: Option<&str>) -> Case {
    let directory = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        std::fs::write(directory.path().join(FILE), text).unwrap();
    }
    let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
    Case { directory, sources }
}

impl Case {
    fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.sources.environment = variables.iter().copied().collect();
        self
    }

    fn flag(mut self, key: &'static str, flag: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.sources.overrides.push(Override { key, flag, value });
        self
    }

    fn load(&self) -> Settings {
        load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The problems, one a line, with the directory's path left out.
    fn errors(&self) -> Vec<String> {
        let error = load(&self.sources).expect_err("nothing was refused").to_string();
        let prefix = format!("{}/", self.directory.path().display());
        error.lines().map(|line| line.replace(&prefix, "")).collect()
    }
}

fn with(variables: &[(&str, &str)]) -> Settings {
    case(None).environment(variables).load()
}

fn errors_with(variables: &[(&str, &str)]) -> Vec<String> {
    case(None).environment(variables).errors()
}

#[test]
fn the_built_in_reference_is_complete() {
    let settings = case(None).load();
    assert_eq!(settings.server.host, "0.0.0.0");
    assert_eq!(settings.server.port, 8080);
    assert_eq!(settings.server.admin_host, "127.0.0.1");
    assert_eq!(settings.server.admin_port, Some(9091));
    assert_eq!(settings.default_endpoint, "imagenet");
    assert_eq!(settings.limits.body, 32 << 20);
    assert_eq!(settings.limits.pixels, 50_000_000);
    assert_eq!((settings.limits.request_pixels, settings.limits.decode_bytes), (250_000_000, 640 << 20));
    assert_eq!(settings.engine.provider, Provider::Cpu);
    assert_eq!(settings.engine.library, None);
    assert_eq!(settings.repository.directory, Path::new("models"));
    assert_eq!(settings.log.format, LogFormat::Auto);
    assert_eq!(settings.container, Container::default());
    assert!(settings.origins.is_empty() && settings.file.is_none());
    // Kubernetes kills 30 s after the signal.
    assert!(settings.server.drain_delay + settings.server.drain_timeout < Duration::from_secs(30));
}

#[test]
fn the_reference_documents_every_setting_and_nothing_else() {
    fn keys(table: &DeTable<'_>, prefix: &str, into: &mut BTreeSet<String>) {
        for (name, value) in table {
            let path = layers::join(prefix, name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => keys(inner, &path, into),
                _ => drop(into.insert(path)),
            }
        }
    }
    let printed = case(None).load().to_toml();
    let (mut documented, mut typed) = (BTreeSet::new(), BTreeSet::new());
    keys(DeTable::parse(REFERENCE).unwrap().get_ref(), "", &mut documented);
    keys(DeTable::parse(&printed).unwrap().get_ref(), "", &mut typed);
    assert_eq!(documented, typed);
    // Each key stands below a comment of its own or that of the key before it.
    let lines: Vec<&str> = REFERENCE.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            let above = lines[index - 1];
            assert!(above.starts_with('#') || above.contains(" = "), "{line} has no comment");
        }
    }
}

#[test]
fn the_example_in_the_reference_works() {
    let start = REFERENCE.find("# [[endpoint]]\n").unwrap();
    let example: Vec<&str> =
        REFERENCE[start..].lines().take_while(|line| line.starts_with("# ")).map(|line| &line[2..]).collect();
    let endpoints = case(Some(&example.join("\n"))).load().endpoints;
    assert_eq!(endpoints[0].id, "photos");
    assert_eq!(endpoints[0].deployed_models[1].traffic, 10);
}

#[test]
fn the_reference_as_a_file_changes_nothing() {
    let mut settings = case(Some(REFERENCE)).load();
    assert_eq!(settings.origins.len(), case(None).load().to_toml().matches(" = ").count());
    settings.file = None;
    settings.origins.clear();
    assert_eq!(settings, case(None).load());
    // Above all not what the admin port does on Vertex AI.
    let vertex = case(Some(REFERENCE)).environment(&[("AIP_HTTP_PORT", "8080")]).load();
    assert_eq!(vertex.server.admin_port, None);
}

#[test]
fn each_layer_overrides_those_before_it() {
    let port = |case: &Case| case.load().server.port;
    let file = "[server]\nport = 1";
    let variables = [("TESSERA__SERVER__PORT", "2"), ("AIP_HTTP_PORT", "3")];
    assert_eq!(port(&case(None)), 8080);
    assert_eq!(port(&case(Some(file))), 1);
    assert_eq!(port(&case(Some(file)).environment(&variables[..1])), 2);
    assert_eq!(port(&case(Some(file)).environment(&variables)), 3);
    let all = case(Some(file)).environment(&variables).flag("server.port", "--port", "4");
    assert_eq!(all.load().origins["server.port"], Origin::Flag("--port"));
    assert_eq!(port(&all), 4);
}

#[test]
fn a_file_that_is_named_replaces_the_one_in_the_directory() {
    let mut case = case(Some("[server]\nport = 1\nhost = \"::1\""));
    let named = case.directory.path().join("other.toml");
    std::fs::write(&named, "[server]\nport = 2").unwrap();
    case.sources.file = Some(named.clone());
    let settings = case.load();
    assert_eq!((settings.server.port, settings.server.host.as_str()), (2, "0.0.0.0"));
    assert_eq!(settings.file, Some(named));
    case.sources.file = Some(case.directory.path().join("missing.toml"));
    assert_eq!(case.errors(), ["missing.toml: can't be read: No such file or directory (os error 2)"]);
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let names = [
        "TESSERA__SERVER__PORT",
        "TESSERA__NONSENSE",
        "ORT_DYLIB_PATH",
        "AIP_HTTP_PORT",
        "AIP_HEALTH_ROUTE",
        "AIP_PREDICT_ROUTE",
        "AIP_STORAGE_URI",
        "AIP_STORAGE_DIR",
        "AIP_GRPC_PORT",
        "AIP_ENDPOINT_ID",
    ];
    assert_eq!(with(&names.map(|name| (name, ""))), case(None).load());
}

#[test]
fn variables_are_strings_or_toml() {
    let settings = with(&[
        ("TESSERA__DEFAULT_ENDPOINT", "123"),
        ("TESSERA__ENGINE__LIBRARY_DIRECTORIES", "[\"/a\", '/b']"),
        ("TESSERA__ENGINE__MAX_DELAY", "2ms"),
        ("TESSERA__ENGINE__SPIN", "true"),
        ("TESSERA__ENGINE__TENSORRT", "{ fp16 = true }"),
        ("TESSERA__ENGINE__TENSORRT__ENGINE_CACHE", "/cache"),
        ("TESSERA__LIMITS__PIXELS", "1_000"),
        ("TESSERA__LIMITS__BODY", "10MB"),
        ("TESSERA__LIMITS__QUEUE_BYTES", "2097152"),
        ("TESSERA__LOG__LEVEL", "\"warn\""),
        ("TESSERA__SERVER__ADMIN_PORT", "off"),
        ("TESSERA__SERVER__DRAIN_DELAY", "2.5"),
        ("TESSERA__ENDPOINT", "[{ id = 'a', deployed_models = [{ model = 'm' }] }]"),
    ]);
    assert_eq!(settings.default_endpoint, "123");
    assert_eq!(settings.engine.library_directories, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(settings.engine.max_delay, Duration::from_millis(2));
    assert!(settings.engine.spin && settings.engine.tensorrt.fp16);
    assert_eq!(settings.engine.tensorrt.engine_cache.as_deref(), Some(Path::new("/cache")));
    assert_eq!(settings.limits.pixels, 1000);
    assert_eq!((settings.limits.body, settings.limits.queue_bytes), (10_000_000, 2_097_152));
    assert_eq!(settings.log.level, "warn");
    assert_eq!(settings.server.admin_port, None);
    assert_eq!(settings.server.drain_delay, Duration::from_millis(2500));
    assert_eq!(settings.endpoints[0].deployed_models[0].model, "m");
}

#[test]
fn the_older_name_of_the_library_stands_between_file_and_environment() {
    let library = |case: Case| case.load().engine.library.unwrap();
    let file = Some("[engine]\nlibrary = \"/file\"");
    let old = ("ORT_DYLIB_PATH", "/old");
    let new = ("TESSERA__ENGINE__LIBRARY", "/new");
    assert_eq!(library(case(file)), Path::new("/file"));
    assert_eq!(library(case(file).environment(&[old])), Path::new("/old"));
    assert_eq!(library(case(file).environment(&[old, new])), Path::new("/new"));
}

#[test]
fn a_port_from_vertex_closes_the_admin_port_unless_it_is_asked_for() {
    let http = ("AIP_HTTP_PORT", "8081");
    let settings = with(&[http]);
    assert_eq!((settings.server.port, settings.server.admin_port), (8081, None));
    let asked = [http, ("TESSERA__SERVER__ADMIN_PORT", "9092")];
    assert_eq!(with(&asked).server.admin_port, Some(9092));
    let file = case(Some("server.admin_port = 9091")).environment(&[http]);
    assert_eq!(file.load().server.admin_port, Some(9091));
    let flag = case(None).environment(&[http]).flag("server.admin_port", "--admin-port", "9093");
    assert_eq!(flag.load().server.admin_port, Some(9093));
}

#[test]
fn grpc_is_asked_for_where_ports_are_assigned() {
    let port = |variables: &[(&str, &str)]| with(variables).grpc.port;
    assert_eq!(port(&[]), Some(8500));
    assert_eq!(port(&[("AIP_HTTP_PORT", "8080")]), None);
    assert_eq!(port(&[("AIP_HTTP_PORT", "8080"), ("AIP_GRPC_PORT", "9000")]), Some(9000));
    assert_eq!(port(&[("AIP_GRPC_PORT", "9000")]), Some(9000));
    assert_eq!(port(&[("AIP_HTTP_PORT", "8080"), ("TESSERA__GRPC__PORT", "8600")]), Some(8600));
    assert_eq!(port(&[("AIP_GRPC_PORT", "9000"), ("TESSERA__GRPC__PORT", "off")]), None);
    // The API's own port is a choice; the admin port's is not.
    assert_eq!(port(&[("TESSERA__GRPC__PORT", "8080")]), Some(8080));
    assert_eq!(errors_with(&[("TESSERA__GRPC__PORT", "9091")]).len(), 1);
    assert_eq!(errors_with(&[("TESSERA__GRPC__PORT", "on")]).len(), 1);
}

#[test]
fn what_vertex_says_is_kept() {
    let container = with(&[
        ("AIP_HEALTH_ROUTE", "/v1/endpoints/7/deployedModels/8"),
        ("AIP_PREDICT_ROUTE", "/v1/endpoints/7/deployedModels/8:predict"),
        ("AIP_GRPC_PORT", "8500"),
        ("AIP_ENDPOINT_ID", "7"),
        ("AIP_DEPLOYED_MODEL_ID", "8"),
        ("AIP_MODEL_NAME", "7"),
        ("AIP_VERSION_NAME", "8"),
        ("AIP_PROJECT_NUMBER", "42"),
        ("AIP_FRAMEWORK", "CUSTOM_CONTAINER"),
        ("AIP_MODE", "PREDICTION"),
        ("AIP_MODE_VERSION", "1.0.0"),
        ("AIP_MACHINE_TYPE", "n1-standard-4"),
        ("AIP_ACCELERATOR_TYPE", "NVIDIA_TESLA_T4"),
        ("AIP_MODEL_DIR", "belongs to training"),
    ])
    .container;
    assert_eq!(container.health_route.as_deref(), Some("/v1/endpoints/7/deployedModels/8"));
    assert_eq!(container.predict_route.as_deref(), Some("/v1/endpoints/7/deployedModels/8:predict"));
    assert_eq!(container.grpc_port, Some(8500));
    let labels: Vec<_> = container.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = "accelerator_type=NVIDIA_TESLA_T4 deployed_model_id=8 endpoint_id=7 framework=CUSTOM_CONTAINER \
                    machine_type=n1-standard-4 mode=PREDICTION mode_version=1.0.0 model_name=7 project_number=42 \
                    version_name=8";
    assert_eq!(labels.join(" "), expected);
}

#[test]
fn one_path_cannot_be_health_and_predict() {
    let routes = [("AIP_HEALTH_ROUTE", "/same"), ("AIP_PREDICT_ROUTE", "/same")];
    let [error] = errors_with(&routes).try_into().unwrap();
    assert!(error.starts_with("AIP_PREDICT_ROUTE: ") && error.contains("AIP_HEALTH_ROUTE"), "{error}");
}

#[test]
fn variables_with_single_underscores_are_warned_of() {
    let warnings = |name: &str, value: &str| with(&[(name, value)]).warnings;
    for (name, meant) in [
        ("TESSERA_PORT", "TESSERA__SERVER__PORT"),
        ("TESSERA_SERVER_PORT", "TESSERA__SERVER__PORT"),
        ("TESSERA_GRPC__PORT", "TESSERA__GRPC__PORT"),
        ("TESSERA_ADMIN_PORT", "TESSERA__SERVER__ADMIN_PORT"),
        ("TESSERA_QUEUE_ITEMS", "TESSERA__LIMITS__QUEUE_ITEMS"),
        ("TESSERA_LOG_LEVL", "TESSERA__LOG__LEVEL"),
        ("TESSERA_HOUSE_OF_CARDS", "TESSERA__SECTION__KEY"),
    ] {
        let [warning] = warnings(name, "1").try_into().unwrap();
        assert!(warning.starts_with(name) && warning.contains(meant), "{warning}");
    }
    // Kubernetes sets these beside a Service of that name.
    for (name, value) in [
        ("TESSERA_PORT", "tcp://10.0.0.1:80"),
        ("TESSERA_SERVICE_HOST", "10.0.0.1"),
        ("TESSERA_SERVICE_PORT_HTTP", "80"),
        ("TESSERA_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("TESSERA_CANARY_PORT_8080_TCP_PORT", "8080"),
        ("TESSERA__LOG__LEVEL", "warn"),
        ("TESSERACT_DATA", "/usr/share"),
    ] {
        assert_eq!(warnings(name, value), [""; 0], "{name}");
    }
}

#[test]
fn storage_takes_the_place_of_the_repository() {
    let directory = |variables: &[(&str, &str)]| {
        let settings = with(variables);
        assert_eq!(settings.container.storage.as_ref(), Some(&settings.repository.directory));
        settings.repository.directory
    };
    let own = ("TESSERA__REPOSITORY__DIRECTORY", "/own");
    assert_eq!(directory(&[own, ("AIP_STORAGE_URI", "/a")]), Path::new("/a"));
    assert_eq!(directory(&[("AIP_STORAGE_URI", "file:///a%20b")]), Path::new("/a b"));
    assert_eq!(directory(&[("AIP_STORAGE_URI", "gs://bucket/x/")]), Path::new("gs://bucket/x"));
    let both = [("AIP_STORAGE_DIR", "/mounted"), ("AIP_STORAGE_URI", "gs://bucket/x")];
    assert_eq!(directory(&both), Path::new("/mounted"));
    // The flag is the last word, also about a URI that can't be one.
    let flag = case(None).environment(&[("AIP_STORAGE_URI", "gs://x")]);
    let settings = flag.flag("repository.directory", "--models", "/flag").load();
    assert_eq!(settings.repository.directory, Path::new("/flag"));
    assert_eq!(settings.container.storage, None);
}

#[test]
fn storage_that_cannot_be_read_is_refused() {
    for uri in ["gs://b", "models", "file://host/x", "file:x", "http://bucket/x"] {
        let expected = format!(
            "AIP_STORAGE_URI: expected gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, an absolute path or a file:// URI, such as \
             gs://my-bucket/models/vit; found {uri:?}"
        );
        assert_eq!(errors_with(&[("AIP_STORAGE_URI", uri)]), [expected]);
    }
}

#[test]
fn variables_of_vertex_are_checked() {
    let errors = errors_with(&[
        ("AIP_HEALTH_ROUTE", "health"),
        ("AIP_PREDICT_ROUTE", "/predict?x"),
        ("AIP_HTTP_PORT", "http"),
        ("AIP_GRPC_PORT", "70000"),
    ]);
    let expected = [
        "AIP_HEALTH_ROUTE: expected a path that begins with '/'",
        "AIP_PREDICT_ROUTE: expected a path that begins with '/'",
        "AIP_GRPC_PORT: expected an integer from 0 to 65535, such as 8500; found \"70000\"",
        "AIP_HTTP_PORT: server.port: expected an integer from 0 to 65535, such as 8080; found the string \"http\"",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_with_its_line() {
    let file = "default_endpoint = \"a b\"\n\n[server]\nprot = 1\nport = 70000\ndrain_delay = \"soon\"\n\
                max_connections = 0\n\n[limts]\nbody = 1\n\n[limits]\nbody = \"10 bananas\"\nbdoy = 2\n\n\
                [engine]\nspin = \"yes\"\nprovider = \"cudda\"\nthreads = 1.5\n[engine.tensorrt.fp16]\n\n\
                [log]\nlevel = \"inof\"\n[repository]\ndirectory = 3\non_error = \"skpi\"";
    let variables = [("TESSERA__SERVR__PORT", "1"), ("TESSERA__LOG__FROMAT", "json"), ("TESSERA__SERVER", "1")];
    let errors = case(Some(file)).environment(&variables).flag("server.admin_port", "--admin-port", "of").errors();
    let expected = [
        "config.toml:1: default_endpoint: expected an id of 1 to 128 letters, digits, '-', '_' and '.', the first one \
         a letter or a digit, such as \"imagenet\"; found the string \"a b\"",
        "config.toml:4: server.prot: unknown key; did you mean `server.port`?",
        "config.toml:5: server.port: expected an integer from 0 to 65535, such as 8080; found the integer 70000",
        "config.toml:6: server.drain_delay: expected a duration from 0s to 10m, such as \"5s\"; found the string \
         \"soon\"",
        "config.toml:7: server.max_connections: expected an integer from 1 to 1000000, such as 4096; found the \
         integer 0",
        "config.toml:9: limts: unknown section; did you mean `[limits]`?",
        "config.toml:13: limits.body: expected a size from 1KiB to 2GiB, such as \"32MiB\"; found the string \"10 \
         bananas\"",
        "config.toml:14: limits.bdoy: unknown key; did you mean `limits.body`?",
        "config.toml:17: engine.spin: expected true or false, such as true; found the string \"yes\"",
        "config.toml:18: engine.provider: expected one of \"cpu\", \"cuda\", \"tensorrt\", such as \"cuda\"; found \
         the string \"cudda\"",
        "config.toml:19: engine.threads: expected an integer from 0 to 1024, such as 4; found the number 1.5",
        "config.toml:20: engine.tensorrt.fp16: expected true or false, such as true; found a table",
        "config.toml:23: log.level: expected one of off, error, warn, info, debug, trace, or directives for single \
         modules, such as \"info\" or \"info,tessera::scheduler=debug\"; found the string \"inof\"",
        "config.toml:25: repository.directory: expected a string, such as \"text\"; found the integer 3",
        "config.toml:26: repository.on_error: expected one of \"fail\", \"skip\", such as \"skip\"; found the string \
         \"skpi\"",
        "TESSERA__LOG__FROMAT: unknown variable; did you mean `TESSERA__LOG__FORMAT`?",
        "TESSERA__SERVER: server: expected a section, such as [server]; found the integer 1",
        "TESSERA__SERVR__PORT: unknown variable; did you mean `TESSERA__SERVER__PORT`?",
        "--admin-port: server.admin_port: expected an integer from 0 to 65535, \"off\" or \"auto\", such as 9091; \
         found the string \"of\"",
    ];
    assert_eq!(errors, expected, "{errors:#?}");
}

#[test]
fn mistakes_in_the_syntax_have_their_lines() {
    let errors = case(Some("[server]\nport = \n\n[limits\nbody = 1\n")).errors();
    assert!(errors.len() >= 2, "{errors:#?}");
    assert!(errors[0].starts_with("config.toml:2: not valid TOML: "), "{errors:#?}");
    assert!(errors[1].starts_with("config.toml:4: not valid TOML: "), "{errors:#?}");
    let twice = case(Some("[server]\nport = 1\nport = 2\n")).errors();
    assert!(twice[0].starts_with("config.toml:3: not valid TOML: duplicate key"), "{twice:#?}");
}

#[test]
fn ports_that_collide_are_refused() {
    let same = ("TESSERA__SERVER__PORT", "9091");
    let errors = errors_with(&[same]);
    assert!(errors[0].starts_with("TESSERA__SERVER__PORT: server.port: 9091 is the admin port too"), "{errors:?}");
    with(&[same, ("TESSERA__SERVER__ADMIN_PORT", "off")]);
    with(&[same, ("TESSERA__SERVER__HOST", "10.0.0.1")]);
    with(&[("TESSERA__SERVER__PORT", "0"), ("TESSERA__SERVER__ADMIN_PORT", "0")]);
}

#[test]
fn origins_of_browsers_have_no_path() {
    let file = "[server]\ncors_origins = [\"https://example.org\", \"*\"]";
    assert_eq!(case(Some(file)).load().server.cors_origins, ["https://example.org", "*"]);
    for origin in ["https://example.org/", "example.org", ""] {
        let file = format!("[server]\ncors_origins = [{origin:?}]");
        let errors = case(Some(&file)).errors();
        assert!(errors[0].starts_with("config.toml:2: server.cors_origins: expected a list of origins"), "{errors:?}");
    }
}

#[test]
fn what_is_printed_is_read_back() {
    let file = "[[endpoint]]\nid = \"a\"\ndeployed_models = [{ id = \"1\", model = \"m\", version = 3 }]\n";
    let variables = [("TESSERA__LIMITS__BODY", "10MB"), ("AIP_HTTP_PORT", "81"), ("AIP_MODE", "PREDICTION")];
    let settings = case(Some(file)).environment(&variables).load();
    let printed = settings.to_toml();
    assert!(printed.contains("\nport = 81 # AIP_HTTP_PORT\n"), "{printed}");
    assert!(printed.contains("\nbody = \"10MB\" # TESSERA__LIMITS__BODY\n"), "{printed}");
    assert!(printed.contains("\nadmin_port = \"off\"\n"), "{printed}");
    assert!(printed.ends_with("# AIP_MODE = PREDICTION\n"), "{printed}");
    let again = case(Some(&printed)).load();
    assert_eq!(again.server, settings.server);
    assert_eq!(again.limits, settings.limits);
    assert_eq!(again.engine, settings.engine);
    assert_eq!(again.endpoints, settings.endpoints);
}

#[test]
fn a_table_of_the_users_names_is_replaced_whole() {
    let map = |settings: Settings| settings.artifacts.map.into_iter().collect::<Vec<_>>();
    let pair = |uri: &str, folder: &str| (uri.to_owned(), folder.to_owned());
    let file = "[artifacts.map]\n\"gs://my-bucket/models\" = \"/models\"\n\"s3://other\" = \"x\"\n";
    let settings = case(Some(file)).load();
    assert_eq!(map(settings.clone()), [pair("gs://my-bucket/models", "/models"), pair("s3://other", "x")]);
    assert_eq!(map(case(Some(&settings.to_toml())).load()), map(settings));
    let variable = [("TESSERA__ARTIFACTS__MAP", r#"{ "gs://third" = "/third" }"#)];
    assert_eq!(map(case(Some(file)).environment(&variable).load()), [pair("gs://third", "/third")]);
    for wrong in ["{ \"/a\" = \"/b\" }", "{ \"gs://abc\" = 3 }", "{ \"gs://abc\" = \"\" }", "3"] {
        let errors = errors_with(&[("TESSERA__ARTIFACTS__MAP", wrong)]);
        assert!(errors[0].contains("a table of folders by the URIs"), "{errors:?}");
    }
}

#[test]
fn tls_has_ports_where_it_has_a_certificate() {
    let ports = |variables: &[(&str, &str)]| {
        let settings = with(variables);
        (settings.tls.port, settings.grpc.tls_port, settings.tls.authority())
    };
    let pair = [("TESSERA__TLS__CERTIFICATE", "a.pem"), ("TESSERA__TLS__KEY", "a.key")];
    assert_eq!(ports(&[]), (None, None, None));
    assert_eq!(ports(&pair), (Some(8443), Some(8501), Some("localhost:8443".to_owned())));
    let with_one = |name, value| [pair[0], pair[1], (name, value)];
    assert_eq!(ports(&with_one("AIP_HTTP_PORT", "8080")), (None, None, None));
    assert_eq!(ports(&with_one("TESSERA__GRPC__PORT", "off")).1, None);
    assert_eq!(
        ports(&with_one("TESSERA__TLS__DEDICATED_DNS", "models.example:443")).2.as_deref(),
        Some("models.example:443")
    );
    for (variables, words) in [
        (vec![pair[0]], "tls.certificate: needs tls.key"),
        (vec![pair[1]], "tls.key: needs tls.certificate"),
        (vec![("TESSERA__TLS__PORT", "8443")], "tls.port: needs tls.certificate"),
        (vec![("TESSERA__GRPC__TLS_PORT", "8501")], "grpc.tls_port: needs tls.certificate"),
        (with_one("TESSERA__TLS__PORT", "8080").into(), "is server.port too"),
        (with_one("TESSERA__TLS__DEDICATED_DNS", "https://x/").into(), "a host, and a port"),
    ] {
        let errors = errors_with(&variables);
        assert!(errors.len() == 1 && errors[0].contains(words), "{errors:?}");
    }
}

#[test]
fn tokens_are_never_printed() {
    for value in ["hush,hush2", r#"["hush", "hush2"]"#] {
        let settings = with(&[("TESSERA__AUTH__TOKENS", value)]);
        assert_eq!(settings.auth.tokens.0, ["hush", "hush2"]);
        assert!(!format!("{settings:?}{}", settings.to_toml()).contains("hush"));
    }
    for wrong in ["[hush", "{ hush = 3 }"] {
        let sources = case(None).environment(&[("TESSERA__AUTH__TOKENS", wrong)]).sources;
        let text = load(&sources).map_or_else(|error| error.to_string(), |settings| settings.to_toml());
        assert!(!text.contains("hush"), "{text}");
    }
}
