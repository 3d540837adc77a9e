//! Whether a call may happen: rules, the canonical target, the SOAP operation, the decision.
//!
//! Everything here is pure: facts in, decision out. No sockets, no clock, no files; the agent
//! gathers the facts, the configuration crate reads the file.
//!
//! The path of a call through this crate:
//!
//! 1. [`CanonicalTarget::parse`] takes the request target and refuses what two programs could
//!    read differently. What it returns is decided on, logged and forwarded: one string.
//! 2. Where [`Policy::look`] says so, [`soap::operation`] reads which operation the body calls.
//! 3. [`Policy::decide`] takes these as [`CallFacts`] and answers [`Decision::Allow`] with a
//!    [`Permit`], or [`Decision::Deny`]. A deny rule wins over every allow rule; where no rule
//!    matches, the call is denied.
//! 4. The upstream client takes a [`Permit`] by value. Only [`Policy::decide`] makes one, so no
//!    call gets past the question.
//!
//! [`Policy::explain`] answers the same question in words: for every rule, the keys that did not
//! match.
//!
//! ```
//! use culvert_policy::{
//!     Action, CallFacts, CanonicalTarget, Decision, Mode, PathOptions, Policy, RuleSpec, Soap,
//! };
//!
//! let policy = Policy::compile(vec![RuleSpec {
//!     method: vec!["GET".into()],
//!     path: vec!["/api/vcenter/**".into()],
//!     ..RuleSpec::new("inventory", Action::Allow)
//! }])
//! .unwrap();
//!
//! let target = CanonicalTarget::parse("/api/vcenter/vm?names=a", PathOptions::default()).unwrap();
//! let call = CallFacts {
//!     endpoint: "vcenter",
//!     mode: Mode::Http,
//!     method: "GET",
//!     target: Some(&target),
//!     destination: None,
//!     caller: "director-7",
//!     scopes: &[],
//!     soap: Soap::No,
//!     upgrade: None,
//!     source: None,
//!     host: None,
//!     port: None,
//! };
//! let Decision::Allow(permit) = policy.decide(&call) else {
//!     panic!("{}", policy.explain(&call));
//! };
//! assert_eq!(&**permit.rule(), "inventory");
//!
//! let other = CallFacts { method: "DELETE", ..call };
//! assert!(!policy.decide(&other).is_allow());
//! ```
//!
//! Matching leans to the safe side from both ends. An allow rule sees the exact spelling; a deny
//! rule sees through letter case, escapes, trailing slashes and path parameters, and matches when
//! a parameter that it names is ambiguous.

pub mod canonical;
mod compile;
mod decide;
mod decode;
mod explain;
mod facts;
mod glob;
mod index;
mod lint;
mod look;
mod matching;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod network;
pub mod operations;
mod path;
mod query;
mod rule;
pub mod soap;

pub use canonical::{CanonicalTarget, PathOptions, TargetError};
pub use compile::{MAX_ITEMS, RuleError};
pub use decide::{Decision, Denial, DenyReason, Permit, Policy, ShadowHit};
pub use explain::{Explanation, Mismatch, Outcome, RuleExplanation};
pub use facts::{CallFacts, Mode, Soap, has_destination};
pub use lint::{Finding, FindingCode, LintEndpoint};
pub use look::Look;
pub use matching::Key;
pub use network::{HalfMapped, plain_network};
pub use rule::{Action, Rate, RateError, RuleSpec, SoapOps};
