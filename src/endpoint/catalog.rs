//! All endpoints that are served, by their ids. Swapped whole: a change makes a new catalogue that shares what is unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Endpoint, LookupError};

/// Which endpoint answers for routes and names that don't say.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The id of the setting `default_endpoint`. Without an endpoint of that id, the only one that was there at the start
    /// answers in its place, or the only one there is.
    pub id: String,
    /// Another id of the default endpoint: the one by which Vertex AI knows it.
    pub alias: Option<String>,
}

/// All endpoints.
#[derive(Default, Clone)]
pub struct Catalog {
    endpoints: BTreeMap<String, Arc<Endpoint>>,
    defaults: Defaults,
    /// The id of the only endpoint that there was at the start.
    sole: Option<String>,
    aliases: Arc<Aliases>,
}

/// The versions that aliases stand for, by the ids of models and the aliases.
#[derive(Debug, Default)]
pub struct Aliases(BTreeMap<String, BTreeMap<String, String>>);

impl Aliases {
    /// The version of a model that has an alias.
    pub fn version(&self, model: &str, alias: &str) -> Option<&str> {
        self.0.get(model)?.get(alias).map(String::as_str)
    }
}

/// Of model, alias and version.
impl FromIterator<(String, String, String)> for Aliases {
    fn from_iter<I: IntoIterator<Item = (String, String, String)>>(aliases: I) -> Self {
        let mut all = Self::default();
        for (model, alias, version) in aliases {
            all.0.entry(model).or_default().insert(alias, version);
        }
        all
    }
}

impl Catalog {
    /// The endpoints by their ids.
    pub fn new(endpoints: Vec<Endpoint>, defaults: Defaults) -> Self {
        let endpoints: BTreeMap<_, _> =
            endpoints.into_iter().map(|endpoint| (endpoint.id.clone(), Arc::new(endpoint))).collect();
        let sole = endpoints.keys().next().filter(|_| endpoints.len() == 1).cloned();
        Self { endpoints, defaults, sole, aliases: Arc::default() }
    }

    /// This catalogue with these aliases of versions, in the place of those that it has.
    pub fn with_aliases(self, aliases: Aliases) -> Self {
        Self { aliases: Arc::new(aliases), ..self }
    }

    /// The aliases of versions.
    pub(super) fn aliases(&self) -> &Arc<Aliases> {
        &self.aliases
    }

    /// This catalogue with an endpoint more, or another one in the place of that of the same id.
    pub fn with(&self, endpoint: Endpoint) -> Self {
        let mut catalog = self.clone();
        let endpoint = match self.endpoints.get(&endpoint.id) {
            Some(earlier) => endpoint.after(earlier),
            None => endpoint,
        };
        catalog.endpoints.insert(endpoint.id.clone(), Arc::new(endpoint));
        catalog
    }

    /// This catalogue without the endpoint of an id.
    pub fn without(&self, id: &str) -> Self {
        let mut catalog = self.clone();
        catalog.endpoints.remove(id);
        catalog
    }

    /// The endpoints in the order of their ids.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// The endpoint of this very id.
    pub fn get(&self, id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(id)
    }

    /// The endpoint of an id, or of the default's other one.
    ///
    /// # Errors
    /// [`LookupError::UnknownEndpoint`].
    pub fn endpoint(&self, id: &str) -> Result<&Arc<Endpoint>, LookupError> {
        let alias = || self.defaults.alias.as_deref().filter(|alias| *alias == id).and_then(|_| self.default());
        self.endpoints
            .get(id)
            .or_else(alias)
            .ok_or_else(|| LookupError::UnknownEndpoint { id: id.chars().take(64).collect(), known: self.known() })
    }

    /// The endpoint for routes that name none.
    ///
    /// # Errors
    /// [`LookupError::NoDefault`].
    pub fn default_endpoint(&self) -> Result<&Arc<Endpoint>, LookupError> {
        self.default().ok_or_else(|| LookupError::NoDefault { known: self.known() })
    }

    fn default(&self) -> Option<&Arc<Endpoint>> {
        let sole = || self.endpoints.get(self.sole.as_deref()?);
        let only = || self.endpoints.values().next().filter(|_| self.endpoints.len() == 1);
        self.endpoints.get(&self.defaults.id).or_else(sole).or_else(only)
    }

    /// The first ids, for messages.
    fn known(&self) -> Vec<String> {
        self.endpoints.keys().take(20).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;

    fn endpoint(id: &str) -> Endpoint {
        let identity = Identity {
            name: id.to_owned(),
            id: id.to_owned(),
            display_name: String::new(),
            create_time: String::new(),
        };
        Endpoint::new(identity, Vec::new())
    }

    fn catalog(ids: &[&str], default: &str) -> Catalog {
        let defaults = Defaults { id: default.to_owned(), alias: Some("123".to_owned()) };
        Catalog::new(ids.iter().map(|id| endpoint(id)).collect(), defaults)
    }

    fn default(catalog: &Catalog) -> Option<&str> {
        catalog.default_endpoint().ok().map(|endpoint| endpoint.id.as_str())
    }

    #[test]
    fn the_default_stays_when_endpoints_come_and_go() {
        assert_eq!(default(&catalog(&["a", "b"], "b")), Some("b"));
        assert_eq!(default(&catalog(&["a", "b"], "c")), None);
        let one = catalog(&["b"], "c");
        assert_eq!(default(&one), Some("b"));
        let two = one.with(endpoint("a"));
        assert_eq!(default(&two), Some("b"));
        assert_eq!(default(&two.without("b")), Some("a"));
        assert_eq!(default(&two.with(endpoint("c"))), Some("c"));
        assert_eq!(default(&catalog(&[], "c").with(endpoint("x"))), Some("x"));
    }

    #[test]
    fn the_alias_is_that_of_the_default() {
        let catalog = catalog(&["a", "b"], "b");
        assert_eq!(catalog.endpoint("123").unwrap().id, "b");
        assert_eq!(catalog.with(endpoint("123")).endpoint("123").unwrap().id, "123");
        let none = catalog.without("b").with(endpoint("c"));
        assert!(matches!(none.endpoint("123"), Err(LookupError::UnknownEndpoint { .. })));
    }
}
