//! `grpc.health.v1.Health`: whether predictions can be answered, for the server as a whole and for each service.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::server::{Drain, State};

/// The name of the server as a whole.
const SERVER: &str = "";

/// The health of the server and of `services`, which follows readiness from now on: only what is ready serves.
pub async fn start(drain: Drain, services: [&'static str; 2]) -> HealthServer<impl Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    // Before anybody can ask, as the reporter begins with a server that serves.
    report(&reporter, &services, ServingStatus::NotServing).await;
    tokio::spawn(follow(drain, reporter, services));
    server
}

async fn follow(drain: Drain, reporter: HealthReporter, services: [&'static str; 2]) {
    let readiness = drain.readiness();
    if *readiness.wait_until(|state| !matches!(state, State::Loading { .. })).await == State::Ready {
        report(&reporter, &services, ServingStatus::Serving).await;
        readiness.wait_until(|state| *state != State::Ready).await;
        report(&reporter, &services, ServingStatus::NotServing).await;
    }
    // Nobody is to be waited for who only watches: without a status, his stream ends.
    drain.closing().await;
    for service in services.into_iter().chain([SERVER]) {
        let mut reporter = reporter.clone();
        reporter.clear_service_status(service).await;
    }
}

async fn report(reporter: &HealthReporter, services: &[&'static str], status: ServingStatus) {
    for service in services.iter().copied().chain([SERVER]) {
        reporter.set_service_status(service, status).await;
    }
}
