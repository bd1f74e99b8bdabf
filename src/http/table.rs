//! Routes that remember their paths, so that the API's description is made of those that there are.

use axum::Router;
use axum::routing::MethodRouter;

/// A router, and the paths of its routes in axum's form.
pub struct Routes<S> {
    router: Router<S>,
    paths: Vec<String>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None yet.
    pub fn new() -> Self {
        Self { router: Router::new(), paths: Vec::new() }
    }

    /// With a route more.
    pub fn route(mut self, path: &str, methods: MethodRouter<S>) -> Self {
        self.paths.push(path.to_owned());
        Self { router: self.router.route(path, methods), ..self }
    }

    /// With all routes of another table.
    pub fn merge(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        Self { router: self.router.merge(other.router), ..self }
    }

    /// With something changed of the router, such as a layer around its routes.
    pub fn map(self, change: impl FnOnce(Router<S>) -> Router<S>) -> Self {
        Self { router: change(self.router), ..self }
    }

    /// The paths of all routes.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// The router, without its table.
    pub fn into_router(self) -> Router<S> {
        self.router
    }
}
