//! The arguments of every command. Their documentation is what `--help` prints.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use http::{HeaderName, HeaderValue};

use super::help;
use crate::config::{self, Environment, Override, Sources, is_id};
use crate::observe::LogFormat;

/// Serves ONNX models by the Vertex AI prediction protocol: base64 images in, labels out.
#[derive(Debug, Parser)]
#[command(
    name = "tessera",
    version,
    long_version = help::version(),
    after_help = help::OVERVIEW,
    arg_required_else_help = true,
    subcommand_required = true,
    propagate_version = false
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the models over HTTP
    #[command(after_long_help = help::SERVE)]
    Serve(ServeArgs),
    /// Classify images here and now, without a server
    #[command(after_long_help = help::PREDICT)]
    Predict(PredictArgs),
    /// Write the tensor that a model would see of an image
    #[command(after_long_help = help::PREPROCESS)]
    Preprocess(PreprocessArgs),
    /// Check the configuration and every model, and report all that is wrong
    #[command(after_long_help = help::CHECK)]
    Check(CheckArgs),
    /// List the models of the repository
    #[command(after_long_help = help::MODELS)]
    Models(ModelsArgs),
    /// Measure how fast a model runs, without a server
    #[command(after_long_help = help::MEASURE)]
    Measure(MeasureArgs),
    /// Measure how fast a server answers
    #[command(after_long_help = help::BENCH)]
    Bench(BenchArgs),
    /// Print a script that completes commands and options in a shell
    #[command(after_long_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
}

/// What every command that reads the configuration takes.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// The configuration file [default: ./config.toml if it exists, else the built-in settings]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The directory of the models [setting: repository.directory]
    #[arg(long, value_name = "DIR", value_parser = directory())]
    pub models: Option<String>,
}

/// `tessera serve`
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub config: ConfigArgs,
    /// The address to listen on [setting: server.host]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// The port of the API, 0 for a free one [setting: server.port]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The port of metrics, health and log level, or `off` [setting: server.admin_port]
    #[arg(long, value_name = "PORT|off", value_parser = parse_optional_port)]
    pub admin_port: Option<String>,
    /// The port of gRPC, or `off`; that of the API opens no further one [setting: grpc.port]
    #[arg(long, value_name = "PORT|off", value_parser = parse_optional_port)]
    pub grpc_port: Option<String>,
    /// The port of HTTPS, or `off` [setting: tls.port]
    #[arg(long, value_name = "PORT|off", value_parser = parse_optional_port)]
    pub tls_port: Option<String>,
    /// The endpoint that answers /predict [setting: default_endpoint]
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub default_endpoint: Option<String>,
    /// off, error, warn, info, debug or trace; also `info,tessera::scheduler=debug` [setting: log.level]
    #[arg(long, value_name = "LEVEL", value_parser = parse_log_level)]
    pub log_level: Option<String>,
    /// The form of a log line; auto is text on a terminal, otherwise json [setting: log.format]
    #[arg(long, value_name = "FORMAT", value_parser = log_format())]
    pub log_format: Option<String>,
}

/// `tessera predict`
#[derive(Debug, Clone, Args)]
pub struct PredictArgs {
    /// The images; `-` is one from standard input
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<ImageSource>,
    /// The model [default: that of the default endpoint]
    #[arg(long, value_name = "NAME", value_parser = parse_id)]
    pub model: Option<String>,
    /// How many labels to give for each image, most confident first [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Print one JSON object a line with `image`, `label` and `confidence`
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub config: ConfigArgs,
}

/// `tessera preprocess`
#[derive(Debug, Clone, Args)]
pub struct PreprocessArgs {
    /// The image; `-` is one from standard input
    #[arg(value_name = "IMAGE")]
    pub image: ImageSource,
    /// Where the tensor goes, in numpy's format: float32, [1, 3, height, width] for most models
    #[arg(long, short, value_name = "FILE.npy")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub by: PreprocessBy,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub config: ConfigArgs,
}

/// Whose preprocessing; none of them: that of the default endpoint's model.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
pub struct PreprocessBy {
    /// As this model does [default: that of the default endpoint]
    #[arg(long, value_name = "NAME", value_parser = parse_id)]
    pub model: Option<String>,
    /// As these libraries do, to 224 x 224 and the range [-1, 1]
    #[arg(long, value_name = "PRESET")]
    pub preset: Option<Preset>,
    /// As a preprocessor_config.json of Hugging Face says
    #[arg(long, value_name = "FILE")]
    pub preprocessor_config: Option<PathBuf>,
}

/// A preprocessing by the library whose arithmetic it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// TensorFlow: tf.image.resize, bilinear without antialias
    Tf,
    /// Hugging Face's image processors on PIL
    Hf,
    /// Hugging Face's fast image processors, on torchvision
    HfFast,
}

/// `tessera check`
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Print the settings that hold, each with where it was set, instead of loading the models
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub config: ConfigArgs,
}

/// `tessera models`
#[derive(Debug, Clone, Args)]
pub struct ModelsArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub config: ConfigArgs,
}

/// `tessera bench`
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// The server, or one of its routes; of a server alone it is /predict, the default endpoint
    #[arg(value_name = "URL")]
    pub url: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub content: BenchContent,
    /// Images in each request; with several --image they take turns
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["body", "get"])]
    pub instances_per_request: u32,
    /// Sent with each request; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    pub header: Vec<(HeaderName, HeaderValue)>,
    /// Connections, each with one request at a time [default: 8; with --rate 64]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: Option<u32>,
    /// Send this many requests a second, whether or not the server keeps up
    #[arg(long, short, value_name = "R", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// With --rate: at random times, as from many users who know nothing of each other, not at even intervals
    #[arg(long, requires = "rate")]
    pub random: bool,
    /// This many users, each on a connection, who pause between an answer and the next request
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with_all = ["connections", "rate"])]
    pub users: Option<u32>,
    /// How long a user pauses [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "users")]
    pub think_time: Option<Duration>,
    /// A known load by its name; vit-blog: 100 users who pause for 1s
    #[arg(long, value_name = "NAME", conflicts_with_all = ["connections", "rate", "users", "think_time"])]
    pub profile: Option<Profile>,
    /// How long to measure
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = parse_some_time)]
    pub duration: Duration,
    /// How long to send requests before measuring
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    pub warm_up: Duration,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_some_time)]
    pub timeout: Duration,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Write a report with charts, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `tessera measure`
#[derive(Debug, Clone, Args)]
pub struct MeasureArgs {
    /// The model [default: that of the default endpoint]
    #[arg(value_name = "MODEL", value_parser = parse_id)]
    pub model: Option<String>,
    /// Sizes of batches, divided by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,4,16", value_parser = parse_batch)]
    pub batch: Vec<usize>,
    /// How long to measure each
    #[arg(long, short, value_name = "TIME", default_value = "4s", value_parser = parse_some_time)]
    pub duration: Duration,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it")]
    pub config: ConfigArgs,
}

/// What a request carries: one of these.
#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = false)]
pub struct BenchContent {
    /// An image to ask about; repeatable, they take turns
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// A whole body of JSON; repeatable, they take turns
    #[arg(long, value_name = "FILE.json")]
    pub body: Vec<PathBuf>,
    /// Send GET without a body, such as to /livez
    #[arg(long)]
    pub get: bool,
}

/// A load that others have published figures of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// 100 users, 1 s between an answer and the next request
    VitBlog,
}

/// `tessera completions`
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// Standard input, written `-`.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl From<OsString> for ImageSource {
    fn from(argument: OsString) -> Self {
        if argument == "-" { Self::Stdin } else { Self::File(PathBuf::from(argument)) }
    }
}

impl ConfigArgs {
    /// Where settings come from with these arguments.
    pub fn sources(&self, environment: Environment) -> Sources {
        let mut sources = Sources { file: self.config.clone(), environment, ..Sources::default() };
        sources.overrides.extend(flag("repository.directory", "--models", self.models.as_ref()));
        sources
    }
}

impl ServeArgs {
    /// Where settings come from with these arguments.
    pub fn sources(&self, environment: Environment) -> Sources {
        let mut sources = self.config.sources(environment);
        let flags = [
            flag("server.host", "--host", self.host.as_ref()),
            flag("server.port", "--port", self.port.as_ref()),
            flag("server.admin_port", "--admin-port", self.admin_port.as_ref()),
            flag("grpc.port", "--grpc-port", self.grpc_port.as_ref()),
            flag("tls.port", "--tls-port", self.tls_port.as_ref()),
            flag("default_endpoint", "--default-endpoint", self.default_endpoint.as_ref()),
            flag("log.level", "--log-level", self.log_level.as_ref()),
            flag("log.format", "--log-format", self.log_format.as_ref()),
        ];
        sources.overrides.extend(flags.into_iter().flatten());
        sources
    }
}

fn flag(key: &'static str, flag: &'static str, value: Option<&impl ToString>) -> Option<Override> {
    let value = value?.to_string();
    Some(Override { key, flag, value })
}

fn parse_batch(argument: &str) -> Result<usize, String> {
    let size = argument.parse().ok().filter(|size| (1..=4096).contains(size));
    size.ok_or_else(|| "expected 1 to 4096".to_owned())
}

fn parse_optional_port(argument: &str) -> Result<String, String> {
    let port = argument == "off" || argument.parse::<u16>().is_ok();
    let expected = || "expected 0 to 65535 or `off`".to_owned();
    port.then(|| argument.to_owned()).ok_or_else(expected)
}

fn parse_id(argument: &str) -> Result<String, String> {
    let expected = || "expected letters, digits, '-', '_' and '.', the first one a letter or a digit".to_owned();
    is_id(argument).then(|| argument.to_owned()).ok_or_else(expected)
}

fn parse_log_level(argument: &str) -> Result<String, String> {
    config::check_log_level(argument).map(|()| argument.to_owned())
}

fn parse_time(argument: &str) -> Result<Duration, String> {
    // A bound, so that sums of times and histograms of nanoseconds can't overflow.
    let day = Duration::from_secs(86_400);
    let time = config::parse_duration(argument).filter(|time| *time <= day);
    time.ok_or_else(|| "expected a time of at most a day such as `10s`, `500ms` or `2m`".to_owned())
}

fn parse_some_time(argument: &str) -> Result<Duration, String> {
    let time = parse_time(argument)?;
    (time >= Duration::from_millis(1)).then_some(time).ok_or_else(|| "expected at least `1ms`".to_owned())
}

fn parse_rate(argument: &str) -> Result<f64, String> {
    let rate = argument.parse().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "expected requests per second, 0.001 to 1000000".to_owned())
}

fn parse_header(argument: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = argument.split_once(':').ok_or("expected `name: value`")?;
    let name = name.trim().parse().map_err(|error| format!("{name:?}: {error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{value:?}: {error}"))?;
    Ok((name, value))
}

fn log_format() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(LogFormat::NAMES.map(|(name, _)| name))
}

fn directory() -> ValueParser {
    ValueParser::from(clap::builder::NonEmptyStringValueParser::new())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("tessera").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command)
    }

    /// What is printed, and the exit code that goes with it.
    fn refused(line: &str) -> (String, i32) {
        let error = parse(line).expect_err(line);
        (error.to_string(), error.exit_code())
    }

    #[test]
    fn definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_flag_of_serve_reaches_the_settings() {
        let line = "serve --models /m --host ::1 --port 0 --admin-port off --grpc-port 8600 --default-endpoint a \
                    --log-level warn --log-format json";
        let Ok(Command::Serve(arguments)) = parse(line) else {
            panic!("not understood");
        };
        let elsewhere = tempfile::tempdir().unwrap();
        let mut sources = arguments.sources(Environment::default());
        sources.directory = elsewhere.path().to_owned();
        let settings = config::load(&sources).unwrap();
        assert_eq!(settings.origins.len(), 8, "{:?}", settings.origins);
        assert_eq!(settings.repository.directory, PathBuf::from("/m"));
        assert_eq!((settings.server.host.as_str(), settings.server.port), ("::1", 0));
        assert_eq!((settings.server.admin_port, settings.grpc.port), (None, Some(8600)));
        assert_eq!(settings.default_endpoint, "a");
        assert_eq!(settings.log.level, "warn");
        assert_eq!(settings.log.format, LogFormat::Json);
    }

    #[test]
    fn a_dash_is_standard_input() {
        let Ok(Command::Predict(arguments)) = parse("predict a.jpg - --top-k 3 --json") else {
            panic!("not understood");
        };
        let expected = [ImageSource::File(PathBuf::from("a.jpg")), ImageSource::Stdin];
        assert_eq!(arguments.images, expected);
        assert_eq!((arguments.top_k, arguments.json, arguments.model), (Some(3), true, None));
    }

    #[test]
    fn preprocessing_is_by_one_of_three() {
        let Ok(Command::Preprocess(arguments)) = parse("preprocess a.jpg --output t.npy --preset hf-fast") else {
            panic!("not understood");
        };
        assert_eq!(arguments.by.preset, Some(Preset::HfFast));
        assert!(parse("preprocess a.jpg -o t.npy").is_ok());
        let (message, code) = refused("preprocess a.jpg -o t.npy --preset tf --model m");
        assert!(message.contains("cannot be used with"), "{message}");
        assert_eq!(code, 2);
    }

    #[test]
    fn what_is_misspelt_gets_the_nearest() {
        for (line, nearest) in [
            ("srve", "'serve'"),
            ("serve --prot 1", "'--port'"),
            ("serve --log-format jsn", "'json'"),
            ("serve --log-level inof", "`info`"),
            ("preprocess a --output t --preset hffast", "'hf-fast'"),
            ("completions bsh", "'bash'"),
        ] {
            let (message, code) = refused(line);
            assert!(message.contains(nearest), "{line}: {message}");
            assert_eq!(code, 2, "{line}");
        }
    }

    #[test]
    fn values_are_checked() {
        for line in [
            "predict",
            "predict a --top-k 0",
            "predict a --model ../x",
            "preprocess a",
            "serve --port 65536",
            "serve --admin-port on",
            "serve --grpc-port -1",
            "serve --models=",
            "check extra",
        ] {
            assert_eq!(refused(line).1, 2, "{line}");
        }
    }

    #[test]
    fn a_load_is_described_without_contradiction() {
        let Ok(Command::Bench(arguments)) = parse("bench http://x --image a --image b --rate 2.5 --header a:b:c -d 1m")
        else {
            panic!("not understood");
        };
        assert_eq!((arguments.content.image.len(), arguments.rate), (2, Some(2.5)));
        assert_eq!((arguments.duration, arguments.warm_up), (Duration::from_secs(60), Duration::from_secs(2)));
        assert_eq!(arguments.header, [(HeaderName::from_static("a"), HeaderValue::from_static("b:c"))]);
        for wrong in [
            "",
            "--image a --body b",
            "--body b --instances-per-request 2",
            "--image a --instances-per-request 0",
            "--image a --rate 0",
            "--image a --rate nan",
            "--image a --users 5 --rate 5",
            "--image a --random",
            "--image a --think-time 1s",
            "--image a --profile vit-blog --connections 5",
            "--image a --duration 0s",
            "--image a --header nonsense",
        ] {
            assert_eq!(refused(&format!("bench http://x {wrong}")).1, 2, "{wrong}");
        }
        assert!(refused("bench http://x").0.contains("--image"));
    }

    #[test]
    fn without_a_command_help_is_printed() {
        let error = parse("").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
        assert!(error.to_string().contains("Exit codes"), "{error}");
    }

    #[test]
    fn the_version_says_what_was_built() {
        let error = parse("--version").unwrap_err();
        let version = error.to_string();
        assert!(version.starts_with(concat!("tessera ", env!("CARGO_PKG_VERSION"))), "{version}");
        assert!(version.contains("exact-jpeg") && version.contains("tensorrt"), "{version}");
        assert_eq!(error.exit_code(), 0);
    }

    #[test]
    fn every_command_has_examples() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("tessera {}", command.get_name());
            assert!(help.contains("Example") && help.contains(&example), "{example}");
        }
    }
}
