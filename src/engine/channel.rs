//! Which channel a response goes to.

use std::sync::Arc;

use super::effect::Refusal;

/// A channel name with placeholders.
#[derive(Debug, Clone)]
pub struct Template;

/// Which channels there are.
#[derive(Debug, Clone)]
pub struct ChannelRules;

impl ChannelRules {
    /// The channel of a response that names one, or not.
    ///
    /// # Errors
    /// When it is not allowed.
    pub fn resolve(&self, named: Option<&str>, key: &str) -> Result<Arc<str>, Refusal> {
        Ok(named.map_or_else(|| format!("ai:{key}").into(), Arc::from))
    }

    #[cfg(test)]
    pub(super) fn for_tests(_template: &str, _allow: &[&str]) -> Self {
        Self
    }
}
