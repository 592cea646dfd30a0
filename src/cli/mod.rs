//! The command line: arguments to configuration, commands, exit codes.

mod bench;
mod check;
mod examples;
mod long_lines;
mod manual;
mod operate;
mod reload;
mod run;
mod runtime;
mod send;
mod signals;
mod store;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::run::Environment;
use self::runtime::{leave, runtime};
use self::signals::{on_ends, on_signals};
use crate::config::{Config, Problem, Problems, Sources, duration_from};
use crate::demo;
use crate::event::Visible;
use crate::sandbox::{self, Sandbox};
use crate::service::Service;
use crate::telemetry::{self, Logging};

/// What the process ends with; part of the contract with scripts and service managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Success = 0,
    /// A submission was refused, or a check did not pass.
    Refused = 1,
    /// The command line is wrong.
    Usage = 64,
    /// The daemon is not reachable.
    Unreachable = 69,
    /// The socket cannot be made.
    Socket = 73,
    /// The queue cannot be opened, the disk failed, or what is printed cannot be written.
    Disk = 74,
    /// Another instance holds the queue.
    InUse = 75,
    /// The configuration, the schema or the account is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Durable, batching delivery of Adobe Target display and click notifications.
#[derive(Debug, Parser)]
#[command(name = "target-notifyd", version, propagate_version = true, after_help = examples::EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    configuration: Configuration,
    #[command(subcommand)]
    command: Command,
}

/// Where the options of all commands begin in `--help`: behind the command's own.
const BEHIND: usize = 100;

#[derive(Debug, Args)]
struct Configuration {
    /// The configuration file; /etc/target-notifyd/config.toml where it is not given, and that may be absent.
    #[arg(long, global = true, value_name = "FILE", display_order = BEHIND)]
    config: Option<PathBuf>,
    /// The instance of target-notifyd@NAME.service: its configuration /etc/target-notifyd/NAME.toml, its queue and its sockets.
    #[arg(long, global = true, value_name = "NAME", value_parser = instance, value_hint = ValueHint::Other, display_order = BEHIND + 1)]
    instance: Option<String>,
    /// Sets one key, such as batch.linger=50ms; wins over the environment, which wins over the file.
    #[arg(short = 'o', global = true, value_name = "KEY=VALUE", value_parser = overriding, value_hint = ValueHint::Other, display_order = BEHIND + 2)]
    overrides: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take events in and deliver them, until SIGTERM.
    #[command(after_help = examples::RUN)]
    Run {
        /// Take over a queue that holds events for another account.
        #[arg(long)]
        adopt_queue: bool,
    },
    /// Print what a daemon would run with, and everything that is wrong with it, its folders, its disk and its network.
    #[command(after_help = examples::CHECK)]
    Check(check::Arguments),
    #[command(flatten)]
    Configured(Configured),
    /// Print the completions of a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: manual::Shell,
    },
    /// Write the manual pages into a folder, which must be there.
    #[command(after_help = examples::MAN)]
    Man {
        /// The folder.
        folder: PathBuf,
    },
}

/// Commands that go by a configuration, but need no account.
#[derive(Debug, Subcommand)]
enum Configured {
    /// Submit lines to the running daemon and print its replies.
    #[command(after_help = examples::SEND)]
    Send {
        /// Where the lines are; - is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
        /// How long to retry lines that the daemon cannot take now, from their first try, and to wait for receipts after the last line. After lines were given up, later ones get one try each until one is taken.
        #[arg(long, default_value = "30s", value_parser = duration_from(Duration::ZERO), value_name = "DURATION")]
        timeout: Duration,
        /// Ask for a receipt of every line but those with "receipt":false, wait for it, and print it: what became of its events.
        #[arg(long)]
        receipts: bool,
    },
    /// Show the whole way on this machine: a misbehaving stand-in for Target, the daemon, and an account of every event.
    #[command(after_help = examples::DEMO)]
    Demo {
        /// How many sessions.
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        sessions: u32,
        /// How many events each session has.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
        events: u32,
        /// What the faults are drawn from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print the account as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure this machine: what the daemon takes in and sends out, beside its limits.
    #[command(after_help = examples::BENCH)]
    Bench(bench::Arguments),
    /// Serve a stand-in for Target's Delivery API, for people who develop producers.
    #[command(after_help = examples::SANDBOX)]
    Sandbox {
        /// Where it listens.
        #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
        listen: SocketAddr,
    },
    #[command(flatten)]
    Operate(operate::Operate),
    /// Look at the folder of a stopped daemon, export its events, or repair it.
    #[command(after_help = examples::STORE)]
    Store {
        #[command(subcommand)]
        command: store::StoreCommand,
    },
}

impl Configured {
    /// The key that it goes by, if that is all it needs: the daemon can be asked whatever else is wrong.
    fn only_key(&self) -> Option<&'static str> {
        match self {
            Self::Send { .. } => Some("ingest.socket"),
            Self::Operate(_) => Some("admin.socket"),
            _ => None,
        }
    }
}

/// Does what the command line says.
#[must_use]
pub fn main() -> Exit {
    let Arguments { configuration, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(asked) => {
            // Help and version are asked for, too; a closed pipe is the reader's choice.
            let _closed = asked.print();
            return if asked.use_stderr() { Exit::Usage } else { Exit::Success };
        }
    };
    match command {
        Command::Run { adopt_queue } => run_daemon(sources(configuration), adopt_queue),
        Command::Check(arguments) => check::run(&sources(configuration), &arguments),
        Command::Configured(command) => {
            let sources = sources(configuration);
            let loaded = match command.only_key() {
                None => Config::load(&sources),
                Some(key) => Config::for_key(&sources, key).map(|(config, beside)| {
                    warn_of(&beside, sources.instance.as_deref());
                    config
                }),
            };
            match loaded {
                Ok(config) => configured(&config, sources, command),
                Err(problems) => wrong(&problems),
            }
        }
        // These read no configuration: packages are built where there is none.
        Command::Completions { shell } => manual::complete(Arguments::command(), shell),
        Command::Man { folder } => manual::write(Arguments::command(), &folder),
    }
}

fn run_daemon(sources: Sources, adopt_queue: bool) -> Exit {
    // Before there is a second thread.
    let service = Service::inherit();
    match (Config::to_run(&sources), service) {
        (Err(problems), _) => wrong(&check::all(&sources, problems)),
        (Ok(_), Err(error)) => {
            told(&error.to_string());
            Exit::Socket
        }
        (Ok((config, account)), Ok(service)) => start(&config, |config, logging| {
            let environment = Environment { sources, logging, service };
            run::run(config, account, adopt_queue, environment)
        }),
    }
}

fn configured(config: &Config, sources: Sources, command: Configured) -> Exit {
    let Sources { overrides, instance, .. } = sources;
    match command {
        Configured::Operate(command) => operate::run(config, instance.as_deref(), command),
        Configured::Store { command } => store::run(config, command),
        Configured::Send { file, timeout, receipts } => {
            send::run(&config.ingest.socket, instance.as_deref(), &file, timeout, receipts)
        }
        Configured::Demo { sessions, events, seed, json } => {
            let demo = |program| demo::Settings { program, overrides, sessions, events, seed };
            start(config, move |_, _| show(std::env::current_exe().map(demo), json))
        }
        Configured::Bench(arguments) => start(config, move |_, _| bench::run(arguments, overrides)),
        Configured::Sandbox { listen } => start(config, move |_, _| serve(listen)),
    }
}

fn sources(arguments: Configuration) -> Sources {
    let Configuration { config, instance, overrides } = arguments;
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let environment: Vec<_> = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let file_required = config.is_some();
    let file = config.unwrap_or_else(|| Sources::default_file(instance.as_deref(), &environment));
    Sources { file, file_required, environment, overrides, instance }
}

/// An argument of `-o`: what is none is a wrong command line, and no wrong configuration.
fn overriding(text: &str) -> Result<String, &'static str> {
    Sources::parted(text).map(|_| text.to_owned())
}

/// The name of an instance, which becomes a part of paths.
fn instance(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.');
    let wrong = "must be 1 to 64 letters, digits, '-', '_' and '.', and not begin with '.'";
    fits.then(|| text.to_owned()).ok_or_else(|| wrong.to_owned())
}

fn wrong(problems: &Problems) -> Exit {
    told(&problems.to_string());
    Exit::Configuration
}

/// Tells that something is wrong that the command of `instance` can do without.
fn warn_of(problems: &[Problem], instance: Option<&str>) {
    let Some(first) = problems.first() else { return };
    let what = match first.key.is_empty() {
        true => first.to_string(),
        false => format!("{}: {} is wrong", first.origin, Visible(&first.key)),
    };
    let more = match problems.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let warning = format!("warning: {what}{more}; target-notifyd check tells all");
    told(&operate::of_instance(&warning, instance));
}

/// Writes to standard error what comes before there is a log. Its paths come from outside, its lines' ends from us.
fn told(text: &str) {
    let lines: Vec<String> = text.lines().map(|line| Visible(line).to_string()).collect();
    // Where standard error is closed there is nobody to tell.
    let _closed = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// Whether whoever reads standard output has closed it, as `head` does: who has had enough is no failure.
fn had_enough(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// How a command ends that has `written` its output: with `exit`, unless it could not, and somebody wanted to read it.
fn ended(written: io::Result<()>, exit: Exit) -> Exit {
    match written {
        Err(error) if !had_enough(&error) => {
            told(&format!("standard output cannot be written: {error}"));
            Exit::Disk
        }
        _ => exit,
    }
}

fn start<F: Future<Output = Exit>>(config: &Config, work: impl FnOnce(Config, Logging) -> F) -> Exit {
    let logging = match telemetry::init(&config.log) {
        Ok(logging) => logging,
        Err(error) => {
            told(&error.to_string());
            return Exit::Configuration;
        }
    };
    match runtime() {
        Ok(runtime) => {
            let exit = runtime.block_on(work(config.clone(), logging));
            leave(runtime);
            exit
        }
        Err(error) => {
            error!(event = "runtime_failed", %error, "the threads of the runtime cannot be started. Check the limits: ulimit -a, and TasksMax= of the service");
            Exit::Disk
        }
    }
}

async fn show(settings: io::Result<demo::Settings>, json: bool) -> Exit {
    let shutdown = CancellationToken::new();
    let settings = match settings.and_then(|settings| on_ends(&shutdown).map(|()| settings)) {
        Ok(settings) => settings,
        Err(error) => {
            told(&format!("the demonstration cannot start: {error}"));
            return Exit::Disk;
        }
    };
    let account = match demo::run(settings, shutdown).await {
        Ok(account) => account,
        Err(error) => {
            told(&format!("the demonstration ended: {error}"));
            return Exit::Refused;
        }
    };
    let text =
        if json { serde_json::to_string_pretty(&account).unwrap_or_default() } else { account.to_string() };
    let exit = if account.is_whole() { Exit::Success } else { Exit::Refused };
    ended(writeln!(io::stdout(), "{text}"), exit)
}

async fn serve(listen: SocketAddr) -> Exit {
    let shutdown = CancellationToken::new();
    let started = on_signals(shutdown.clone())
        .and_then(|()| Sandbox::start(sandbox::Settings { listen, ..sandbox::Settings::default() }));
    match started {
        Ok(sandbox) => {
            info!(event = "sandbox_listens", address = %sandbox.address(), "the sandbox listens; set target.endpoint to http://ADDRESS");
            sandbox.run(shutdown).await;
            Exit::Success
        }
        Err(error) => {
            error!(event = "sandbox_failed", %error, %listen, "the sandbox cannot listen; choose another address with target-notifyd sandbox --listen");
            Exit::Socket
        }
    }
}
