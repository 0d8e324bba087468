//! The contexts that BLOCK_STATUS can answer for: their names, what their bits mean, and which of them a query selects.
//!
//! Owns the definition of `x-vellum:shared`, which the spec wants documented. Finding extents is not done here.

/// A context as it was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// What the client knows it by in replies.
    pub id: u32,
    /// Which one it is.
    pub kind: MetaContext,
}

/// A way to tell the states of extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaContext {
    /// `base:allocation`, defined by the spec: [`STATE_HOLE`] and [`STATE_ZERO`].
    ///
    /// Writing to an extent without `STATE_HOLE` fails with ENOSPC only if `x-vellum:shared` says that it may.
    ///
    /// [`STATE_HOLE`]: super::constants::STATE_HOLE
    /// [`STATE_ZERO`]: super::constants::STATE_ZERO
    Allocation,
    /// `x-vellum:shared`, our own.
    ///
    /// Bit 0, [`STATE_SHARED`]: the extent shares its space with a snapshot or a clone. A write to it may need new space,
    /// and may fail with ENOSPC although `base:allocation` says that it is no hole. All other bits are 0; clients must
    /// ignore them.
    ///
    /// [`STATE_SHARED`]: super::constants::STATE_SHARED
    Shared,
}

impl MetaContext {
    /// Every context, in the order in which they are offered.
    pub const ALL: [Self; 2] = [Self::Allocation, Self::Shared];

    /// The name: a namespace, a colon, a leaf.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::Shared => "x-vellum:shared",
        }
    }

    /// This context as it is agreed. The id is never 0, which the spec reserves in answers to LIST_META_CONTEXT.
    pub(super) fn agreed(self) -> Context {
        let id = match self {
            Self::Allocation => 1,
            Self::Shared => 2,
        };
        Context { id, kind: self }
    }

    /// Whether `query` asks for this context. A namespace without leaf asks for all of it, as a wildcard in
    /// LIST_META_CONTEXT only.
    fn is_meant(self, query: &str, wildcards: bool) -> bool {
        let name = self.name();
        name == query || wildcards && query.ends_with(':') && name.starts_with(query)
    }
}

/// The contexts to list: all if nothing is asked.
pub fn listed(queries: &[&str]) -> Vec<MetaContext> {
    if queries.is_empty() { MetaContext::ALL.to_vec() } else { meant(queries, true) }
}

/// The contexts to set: none if nothing is asked.
pub fn selected(queries: &[&str]) -> Vec<MetaContext> {
    meant(queries, false)
}

/// Those that a query means, each once, however often it is meant. Queries that mean none are ignored.
fn meant(queries: &[&str], wildcards: bool) -> Vec<MetaContext> {
    let is_meant = |context: &MetaContext| queries.iter().any(|query| context.is_meant(query, wildcards));
    MetaContext::ALL.into_iter().filter(is_meant).collect()
}

#[cfg(test)]
mod tests {
    use super::MetaContext::{Allocation, Shared};
    use super::*;

    #[test]
    fn queries_select_by_name_and_by_wildcard() {
        assert_eq!(listed(&[]), [Allocation, Shared]);
        assert_eq!(listed(&["base:"]), [Allocation]);
        assert_eq!(listed(&["x-vellum:", "base:allocation"]), [Allocation, Shared]);
        assert_eq!(listed(&["x-vellum:shared", "x-vellum:"]), [Shared]);
        assert_eq!(listed(&["qemu:", "base:all", "bas", "x-vellum:shared:"]), []);
        assert_eq!(selected(&[]), []);
        assert_eq!(selected(&["base:", "x-vellum:"]), []);
        assert_eq!(
            selected(&["x-vellum:shared", "base:allocation", "x-vellum:shared"]),
            [Allocation, Shared]
        );
    }

    #[test]
    fn ids_are_unique_and_not_zero() {
        let ids = MetaContext::ALL.map(|context| context.agreed().id);
        assert!(ids[0] != ids[1] && !ids.contains(&0));
    }
}
