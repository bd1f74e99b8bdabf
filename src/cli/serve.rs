//! `tessera serve`: opens the port, loads the models, serves until it is told to end.

use std::collections::BTreeMap;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Uri};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use thiserror::Error;
use tokio::task::JoinSet;

use crate::admin;
use crate::artifact::Progress;
use crate::auth::{AuthError, AuthSettings, Guard};
use crate::config::{OnError, Settings};
use crate::endpoint::ServedModel;
use crate::grpc::{self, Grpc, GrpcSettings, Methods};
use crate::http::middleware::{
    AccessLog, Authorization, OriginError, access_log, authorization, catch_panic, cors, request_id,
};
use crate::http::operations::{self, Operations};
use crate::http::{self, Api, ApiSettings, RouteAliases};
use crate::loader::{Loader, ModelKey};
use crate::management::{Management, ManagementError, ManagementSettings};
use crate::observe::{LogControl, LogError, LogSettings, Metrics, start_logging};
use crate::preprocess::EXACT;
use crate::protocol::status::Status;
use crate::scheduler::SchedulerSettings;
use crate::server::{
    BindError, Drain, DrainSettings, Readiness, Server, ServerSettings, Tls, TlsError, TlsFiles, stop_on_signals,
};
use crate::service::{Evaluator, Service, WorkPool};
use crate::startup::{Plan, StartupError, artifacts, fetch_repository, load_options};

/// Why the server did not start, or ended with a failure.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ServeError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(
        "server.host and server.admin_host must be IP addresses, such as 0.0.0.0, or host names; {0:?} can't be resolved"
    )]
    Host(String),
    #[error(transparent)]
    Origins(#[from] OriginError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error(transparent)]
    Management(#[from] ManagementError),
    #[error("the metrics could not be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Grpc(#[from] grpc::ReflectionError),
    #[error("the system refused a thread or a signal handler: {0}")]
    System(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`], before or after the port was open; it has been logged when this returns.
pub fn run(settings: Settings, no_color: bool) -> Result<(), ServeError> {
    let log = start_logging(&log_settings(&settings, no_color))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(settings, log));
    if let Err(error) = &result {
        tracing::error!("{error}");
    }
    // What is still blocking, such as a model being loaded, is not waited for.
    runtime.shutdown_background();
    result
}

fn log_settings(settings: &Settings, no_color: bool) -> LogSettings {
    LogSettings {
        format: settings.log.format,
        level: settings.log.level.clone(),
        no_color,
        labels: settings.container.labels.clone(),
        project: settings.container.labels.get("project_number").cloned(),
    }
}

async fn serve(settings: Settings, log: LogControl) -> Result<(), ServeError> {
    let readiness = Arc::new(Readiness::new());
    let metrics = Arc::new(Metrics::new()?);
    metrics.set_build(env!("CARGO_PKG_VERSION"));
    let drain = Drain::new(
        DrainSettings { delay: settings.server.drain_delay, timeout: settings.server.drain_timeout },
        readiness.clone(),
    );
    stop_on_signals(drain.clone())?;
    if !EXACT {
        tracing::warn!("built without the feature exact-jpeg: JPEG pixels differ from the references by a few levels");
    }

    // The ports open before anything slow begins: a probe by TCP must not fail while models load.
    let api_server = bind(&settings.server.host, settings.server.port, "--port or server.port", &settings)?;
    let admin_server = match settings.server.admin_port {
        Some(port) => Some(bind(&settings.server.admin_host, port, "--admin-port or server.admin_port", &settings)?),
        None => None,
    };
    let grpc_server = match settings.grpc.port {
        Some(port) if port != settings.server.port || port == 0 => {
            Some(bind(&settings.server.host, port, "--grpc-port or grpc.port", &settings)?)
        }
        _ => None,
    };

    let tls = tls(&settings)?;
    let tls_listener = |port: Option<u16>, option| match (port, &tls) {
        (Some(port), Some(tls)) => {
            bind(&settings.server.host, port, option, &settings).map(|server| Some(server.with_tls(tls.clone())))
        }
        _ => Ok(None),
    };
    let https_server = tls_listener(settings.tls.port, "--tls-port or tls.port")?;
    let grpcs_server = tls_listener(settings.grpc.tls_port, "grpc.tls_port")?;

    let guard = Guard::start(auth_settings(&settings))?;
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    warn_if_open(&settings, tls.is_some(), guard.is_some());

    let operations = Operations { readiness: readiness.clone(), metrics: metrics.clone() };
    let pool = WorkPool::start(settings.engine.preprocess_threads)?;
    let evaluator = Evaluator { pool, request_pixels: settings.limits.request_pixels };
    let service = Arc::new(Service::new(evaluator, settings.explain.image_grid));
    let loader = Arc::new(Loader::new(load_options(&settings), queue_settings(&settings), metrics.clone()));
    let management = Management::new(
        ManagementSettings {
            http_port: api_server.local_addr().port(),
            https_port: https_server.as_ref().map(|server| server.local_addr().port()),
            ..management_settings(&settings)
        },
        service.clone(),
        loader.clone(),
        Arc::new(artifacts(&settings)),
        metrics.clone(),
    );
    let face = grpc_face(&settings, service.clone(), management.clone(), metrics.clone());
    let (grpc, methods) = grpc::router(face, &drain).await?;
    let grpc = settings.grpc.port.map(|_| grpc).unwrap_or_default();
    let router = api_router(&settings, service, management.clone(), &operations, methods, grpc.clone(), guard.clone())?;
    let grpc_router = observed(guarded(grpc.fallback(grpc::unimplemented), guard), &settings, metrics.clone());
    let mut listeners = JoinSet::new();
    for (name, server, router) in [
        ("api", Some(api_server), &router),
        ("grpc", grpc_server, &grpc_router),
        ("https", https_server, &router),
        ("grpcs", grpcs_server, &grpc_router),
    ] {
        let Some(server) = server else { continue };
        tracing::info!(listener = name, address = %server.local_addr(), "listening");
        listeners.spawn(server.serve(router.clone(), drain.clone(), metrics.connections(name)));
    }
    // The admin port outlives the API's, so that the end can be watched.
    let admin_drain = Drain::new(DrainSettings { delay: Duration::ZERO, ..drain.settings() }, readiness.clone());
    let admin = admin_server.map(|server| {
        tracing::info!(listener = "admin", address = %server.local_addr(), "listening");
        let router = admin::router(operations, log);
        tokio::spawn(server.serve(router, admin_drain.clone(), metrics.connections("admin")))
    });

    // Held until the end, so that nobody clears the files away.
    let mut repository = None;
    let loading = async {
        let mut settings = settings.clone();
        let note = |progress: Progress| readiness.set_progress("repository", progress.to_string());
        repository = fetch_repository(&mut settings, note).await.map_err(StartupError::from)?;
        readiness.forget("repository");
        load_models(&settings, &management, &loader, &readiness, &metrics).await
    };
    tokio::select! {
        loaded = loading => loaded.inspect_err(|error| {
            readiness.set_failed(error.to_string());
        })?,
        // Told to end while loading: there is nothing to lose.
        () = drain.begun() => {}
    }
    let mut cut = 0;
    while let Some(served) = listeners.join_next().await {
        cut += served.map_err(io::Error::other)?.cut;
    }
    admin_drain.begin();
    if let Some(admin) = admin {
        admin.await.map_err(io::Error::other)?;
    }
    drop(repository);
    match cut {
        0 => tracing::info!("everything that was accepted is answered; goodbye"),
        cut => tracing::warn!(connections = cut, "cut, as server.drain_timeout has passed"),
    }
    Ok(())
}

fn queue_settings(settings: &Settings) -> SchedulerSettings {
    SchedulerSettings {
        queue_items: settings.limits.queue_items,
        queue_bytes: settings.limits.queue_bytes,
        max_batch: None,
        max_delay: settings.engine.max_delay,
    }
}

fn management_settings(settings: &Settings) -> ManagementSettings {
    ManagementSettings {
        directory: settings.state.directory.clone(),
        fail_on_error: settings.repository.on_error == OnError::Fail,
        dedicated_dns: settings.tls.authority(),
        ..ManagementSettings::default()
    }
}

/// What listeners with TLS share, where there is a certificate. It follows its files from now on.
fn tls(settings: &Settings) -> Result<Option<Tls>, TlsError> {
    let (Some(certificate), Some(key)) = (settings.tls.certificate.clone(), settings.tls.key.clone()) else {
        return Ok(None);
    };
    let tls = Tls::load(TlsFiles { certificate, key })?;
    tls.follow();
    Ok(Some(tls))
}

fn auth_settings(settings: &Settings) -> AuthSettings {
    AuthSettings { file: settings.auth.tokens_file.clone(), tokens: settings.auth.tokens.0.clone() }
}

/// Warns where everybody who reaches this machine can read along, or ask. On Vertex AI nobody else reaches it.
fn warn_if_open(settings: &Settings, has_tls: bool, has_tokens: bool) {
    let host = &settings.server.host;
    let is_local = match host.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost",
    };
    if is_local || settings.container.is_vertex() {
        return;
    }
    let missing = match (has_tls, has_tokens) {
        (true, true) => return,
        (false, false) => "without TLS and without tokens",
        (false, true) => "without TLS, so that tokens travel in the clear",
        (true, false) => "without tokens, so that everybody may ask",
    };
    tracing::warn!(
        "listening on {host}, which others reach, {missing}: set tls.certificate and tls.key, and auth.tokens_file \
         (docs/security.md), or server.host = \"127.0.0.1\""
    );
}

/// The layer that asks for tokens, if there are any.
fn guarded(router: Router, guard: Option<Arc<Guard>>) -> Router {
    match guard {
        Some(guard) => {
            let own = Authorization { guard, refuse: refused, is_grpc: grpc::is_grpc };
            router.layer(from_fn_with_state(own, authorization))
        }
        None => router,
    }
}

/// The answer to a request that was not let in, in the protocol that the client speaks.
fn refused(headers: &HeaderMap, uri: &Uri, status: Status) -> Response {
    match grpc::is_grpc(headers) {
        true => grpc::refuse(&status),
        false => http::failed_at(uri.path(), status),
    }
}

fn bind(host: &str, port: u16, option: &'static str, settings: &Settings) -> Result<Server, ServeError> {
    let resolved = (host, port).to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let address = resolved.ok_or_else(|| ServeError::Host(host.to_owned()))?;
    let limits = ServerSettings {
        max_connections: settings.server.max_connections,
        header_timeout: settings.server.header_timeout,
        idle_timeout: settings.server.idle_timeout,
        ..ServerSettings::default()
    };
    Ok(Server::bind(address, option, limits)?)
}

fn grpc_face(
    settings: &Settings,
    service: Arc<Service>,
    management: Arc<Management>,
    metrics: Arc<Metrics>,
) -> Arc<Grpc> {
    let settings = GrpcSettings {
        message_limit: settings.limits.body,
        instances: settings.limits.instances,
        request_timeout: settings.server.request_timeout,
    };
    Arc::new(Grpc { service, management, metrics, settings })
}

/// All routes of the API's port, in their middleware; those of gRPC are told apart by their paths.
fn api_router(
    settings: &Settings,
    service: Arc<Service>,
    management: Arc<Management>,
    operations: &Operations,
    methods: Arc<Methods>,
    grpc: Router,
    guard: Option<Arc<Guard>>,
) -> Result<Router, ServeError> {
    let metrics = operations.metrics.clone();
    let api = Arc::new(Api {
        service,
        management,
        methods,
        metrics: metrics.clone(),
        settings: ApiSettings {
            body_limit: settings.limits.body,
            instances: settings.limits.instances,
            request_timeout: settings.server.request_timeout,
            body_timeout: settings.server.body_timeout,
        },
    });
    let aliases = RouteAliases {
        health: settings.container.health_route.clone(),
        predict: settings.container.predict_route.clone(),
    };
    let mut router = http::router(api)
        .merge(operations::router(operations.clone()))
        .merge(grpc)
        .fallback(not_found)
        .method_not_allowed_fallback(http::method_not_allowed);
    router = guarded(router, guard);
    if let Some(cors) = cors(&settings.server.cors_origins)? {
        router = router.layer(cors);
    }
    Ok(aliases.wrap(observed(router, settings, metrics)))
}

/// The answer for a path that doesn't exist, in the protocol that the client speaks.
async fn not_found(headers: HeaderMap, uri: Uri) -> Response {
    match grpc::is_grpc(&headers) {
        true => grpc::unimplemented(uri).await,
        false => http::not_found(uri).await,
    }
}

/// What every request passes, by whatever port it comes.
fn observed(router: Router, settings: &Settings, metrics: Arc<Metrics>) -> Router {
    let probes = ["/health", "/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", grpc::PROBE];
    let probes = probes.map(str::to_owned);
    let probes = probes.into_iter().chain(settings.container.health_route.clone());
    // As one layer: the routes are boxed anew around each.
    let log = from_fn_with_state(AccessLog::new(metrics.clone(), probes), access_log);
    router.layer((from_fn(request_id), log, catch_panic(metrics)))
}

/// Loads all models, side by side, and opens the latch.
async fn load_models(
    settings: &Settings,
    management: &Management,
    loader: &Arc<Loader>,
    readiness: &Readiness,
    metrics: &Arc<Metrics>,
) -> Result<(), ServeError> {
    let mut plan = Plan::new(settings)?;
    for problem in plan.problems.drain(..) {
        if settings.repository.on_error == OnError::Fail {
            return Err(problem.into());
        }
        tracing::error!("{problem}; the rest is served, as repository.on_error is \"skip\"");
    }
    let mut loading = JoinSet::new();
    for folder in plan.folders.clone() {
        readiness.set_progress(&folder.name, "loading");
        let loader = loader.clone();
        loading.spawn(async move {
            let loaded = loader.load(folder.clone(), None).await;
            (folder, loaded)
        });
    }
    let mut models: BTreeMap<ModelKey, Arc<ServedModel>> = BTreeMap::new();
    while let Some(finished) = loading.join_next().await {
        let Ok((folder, loaded)) = finished else { continue };
        match loaded {
            Ok(model) => {
                readiness.set_progress(&folder.name, "ready");
                models.insert((folder.name.clone(), folder.version), model);
            }
            Err(error) if settings.repository.on_error == OnError::Skip => {
                readiness.set_progress(&folder.name, "skipped");
                tracing::error!(model = folder.name, %error, "model skipped, as repository.on_error is \"skip\"");
            }
            Err(error) => return Err(StartupError::Model { name: folder.name, error }.into()),
        }
    }
    let catalog = management.start(&plan, &models, plan.catalog(&models, metrics)).await?;
    if let Err(error) = catalog.default_endpoint() {
        tracing::warn!("POST /predict will be answered with 404: {error}");
    }
    readiness.set_ready();
    tracing::info!(models = models.len(), "ready");
    Ok(())
}
