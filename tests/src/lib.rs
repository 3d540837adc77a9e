//! The product, tested by real processes.
//!
//! A test starts what it needs and talks to it as users do:
//!
//! ```text
//! curl --https--> culvert-relay <==wss== culvert-agent --https--> nginx, or a scripted upstream
//!      \                |                     |
//!       `--------- npm oidc-provider ---------'
//! ```
//!
//! [`Stack::start`] brings up relay and agent with configuration of their own in a folder of
//! their own, on free ports, and returns once a call gets through. Everything is ended when the
//! stack is dropped; the logs of a test that failed are printed. The issuer is shared by the
//! tests of a file, since it is slow to start and nobody harms it.
//!
//! | module | what it drives |
//! |---|---|
//! | [`stack`] | relay and agent, their configuration and policy |
//! | [`issuer`] | the issuer that all tests share, and tokens that it would never issue |
//! | [`oauth`] | the OAuth server itself, for tests that rotate its keys or kill it |
//! | [`curl`] | callers, to the end or a step at a time |
//! | [`certificates`] | what callers show in place of a token |
//! | [`proof`] | keys that tokens are bound to |
//! | [`wires`] | the network between agent and relay, to be cut |
//! | [`cluster`] | several relays, with [`redis`], a [`balancer`], and the network [`between`] them |
//! | [`load`] | callers that call all the time, and a local API that counts |
//! | [`swarm`] | thousands of agents at once |
//! | [`haproxy`] | a real balancer in front of the relay |
//! | [`raw`] | callers that send bytes no HTTP client would |
//! | [`prometheus`] | who scrapes the metrics |
//! | [`squid`] | a corporate proxy on the agent's way out |
//! | [`way`] | callers that CONNECT, and look at how a connection ends |
//! | [`nginx`], [`upstream`] | the local API: a real server, and one that does what a test says |
//! | [`peers`] | peers in Node: WebSocket and gRPC, both ends |
//! | [`process`], [`wait`], [`port`] | processes, their memory and logs; waiting for a condition |
//! | [`pattern`] | long bodies of which every byte can be checked |

pub mod balancer;
pub mod between;
pub mod browser;
pub mod certificates;
pub mod cluster;
pub mod curl;
pub mod haproxy;
pub mod issuer;
pub mod load;
pub mod nginx;
pub mod oauth;
pub mod pattern;
pub mod peers;
pub mod port;
pub mod process;
pub mod prometheus;
pub mod proof;
pub mod raw;
pub mod redis;
pub mod squid;
pub mod stack;
pub mod swarm;
pub mod upstream;
pub mod wait;
pub mod way;
pub mod wires;

pub use curl::{Answer, Curl, Http};
pub use nginx::Nginx;
pub use oauth::OAuthServer;
pub use squid::Squid;
pub use stack::{Stack, StackOptions};
pub use upstream::Upstream;
