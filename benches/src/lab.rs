//! Two sides with a real network between them: this machine, and a network namespace that only
//! the [`wire`] connects with it.
//!
//! ```text
//!   this namespace: callers, relay, edge          the far one: agent, inner, upstream
//!        TUN device ──── delay, loss, rate, bounded queue ──── TUN device
//! ```
//!
//! Names and addresses hold the process id, so that runs do not disturb each other. Everything is
//! removed on drop; what a killed run left is removed by the next.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::load::Failure;
use crate::wire::{self, Counters, MTU, Quality};

/// What every namespace of a bench is called, before the process id.
const PREFIX: &str = "culvert-bench-";

/// Where `ip netns` keeps the namespaces.
const NAMESPACES: &str = "/run/netns";

/// Packets that a device holds until the wire has read them: more than any burst of TCP, so that
/// only the wire loses packets.
const DEVICE_QUEUE: u32 = 20_000;

/// Both sides and the wire between them.
#[derive(Debug)]
pub struct Lab {
    namespace: Namespace,
    devices: [String; 2],
    near: Ipv4Addr,
    far: Ipv4Addr,
    counters: [Arc<Counters>; 2],
}

impl Lab {
    /// Builds both sides. The far one knows this one by the name `domain`. `congestion` names the
    /// congestion control of TCP on the wire, where it is not the kernel's default.
    pub fn build(
        domain: &str,
        quality: Quality,
        congestion: Option<&str>,
    ) -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(
                "this scenario makes a network namespace and TUN devices: run it as root \
                 (in a container: with NET_ADMIN, SYS_ADMIN and /dev/net/tun)"
                    .into(),
            );
        }
        remove_left_over();
        let id = std::process::id();
        let [near, far] = addresses(id);
        let namespace = Namespace::create(format!("{PREFIX}{id}"), domain, near)?;
        let devices = [format!("cb{id}n"), format!("cb{id}f")];
        let (near_device, far_device) = (device(&devices[0])?, device(&devices[1])?);

        let name = &namespace.name;
        let congestion = congestion.map_or(String::new(), |name| format!(" congctl {name}"));
        ip(&format!("link set {} netns {name}", devices[1]))?;
        ip(&format!("-n {name} link set lo up"))?;
        for (side, device, own, other) in [
            (String::new(), &devices[0], near, far),
            (format!("-n {name} "), &devices[1], far, near),
        ] {
            let link = format!("link set {device} mtu {MTU} txqueuelen {DEVICE_QUEUE} up");
            ip(&format!("{side}{link}"))?;
            ip(&format!("{side}address add {own}/32 dev {device}"))?;
            ip(&format!(
                "{side}route add {other}/32 dev {device} src {own}{congestion}"
            ))?;
        }
        let counters = [
            wire::forward(near_device.clone(), far_device.clone(), quality),
            wire::forward(far_device, near_device, quality),
        ];
        Ok(Self {
            namespace,
            devices,
            near,
            far,
            counters,
        })
    }

    /// The address of this side on the wire.
    pub fn near(&self) -> Ipv4Addr {
        self.near
    }

    /// The address of the far side on the wire.
    pub fn far(&self) -> Ipv4Addr {
        self.far
    }

    /// A command that runs `program` on the far side.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace.name])
            .arg(program);
        command
    }

    /// Does something on the far side: a socket that it makes belongs there for good.
    pub fn at_far_side<T: Send>(
        &self,
        act: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let namespace = fs::File::open(Path::new(NAMESPACES).join(&self.namespace.name))?;
        thread::scope(|scope| {
            // A thread of its own: it alone changes sides, and ends there.
            let thread = scope.spawn(move || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network)?;
                act()
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread at the far side panicked")))
        })
    }

    /// A TCP listener on the far side.
    pub fn listen_far(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.at_far_side(|| TcpListener::bind(address))
    }

    /// Makes TCP forget what it learned on the wire, so that each case begins alike.
    pub fn forget_metrics(&self) {
        // `ip` fails where nothing is known.
        let _ = ip(&format!("tcp_metrics flush {}", self.far));
        let name = &self.namespace.name;
        let _ = ip(&format!("-n {name} tcp_metrics flush {}", self.near));
    }

    /// What happened to the packets so far, in words.
    pub fn account(&self) -> String {
        let [down, up] = [&self.counters[1], &self.counters[0]].map(|counters| {
            let [taken, lost, dropped] = [&counters.taken, &counters.lost, &counters.dropped]
                .map(|counter| counter.load(Ordering::Relaxed));
            format!(
                "{taken} packets, {:.3} % lost, {:.3} % dropped by the queue",
                100.0 * lost as f64 / taken.max(1) as f64,
                100.0 * dropped as f64 / taken.max(1) as f64,
            )
        });
        let missed = self.missed().map_or("unknown".into(), |n| n.to_string());
        format!("down: {down}; up: {up}; lost before the wire read them: {missed}")
    }

    /// Packets that this side's device threw away because the wire did not keep up.
    fn missed(&self) -> Option<u64> {
        let file = format!("/sys/class/net/{}/statistics/tx_dropped", self.devices[0]);
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The threads of the wire wait for packets until their device is gone.
        let [near, far] = &self.devices;
        let _ = ip(&format!("link delete {near}"));
        let _ = ip(&format!("-n {} link delete {far}", self.namespace.name));
    }
}

/// A network namespace; it goes when this is dropped and its last process has ended.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn create(name: String, domain: &str, relay: Ipv4Addr) -> Result<Self, Failure> {
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        // ip-netns(8): files in here take the place of those in /etc.
        let etc = etc(&namespace.name);
        fs::create_dir_all(&etc)?;
        let hosts = format!("127.0.0.1 localhost\n{relay} {domain}\n");
        fs::write(etc.join("hosts"), hosts)?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn etc(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

fn remove(namespace: &str) {
    let _ = ip(&format!("netns delete {namespace}"));
    let _ = fs::remove_dir_all(etc(namespace));
    // Only where nobody else has anything in it.
    let _ = fs::remove_dir("/etc/netns");
}

/// Removes the namespaces of runs that were killed. Their devices went with their processes.
fn remove_left_over() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(id) = name.strip_prefix(PREFIX)
            && !Path::new("/proc").join(id).exists()
        {
            remove(&name);
        }
    }
}

/// Two addresses of 198.18.0.0/15, which is there for benchmarks (RFC 2544), other ones for
/// (almost) every process.
fn addresses(id: u32) -> [Ipv4Addr; 2] {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (id % (1 << 15)) * 4;
    [Ipv4Addr::from(first + 1), Ipv4Addr::from(first + 2)]
}

/// A TUN device; it lives as long as the handle.
fn device(name: &str) -> Result<Arc<SyncDevice>, Failure> {
    let device = DeviceBuilder::new()
        .name(name)
        .build_sync()
        .map_err(|error| format!("no TUN device: {error} (is there a /dev/net/tun?)"))?;
    Ok(Arc::new(device))
}

/// Runs `ip` (iproute2) with these arguments.
fn ip(arguments: &str) -> Result<(), Failure> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("ip (Debian package iproute2): {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", said.trim()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_the_range_for_benchmarks_and_differ_between_neighbours() {
        for id in [0, 1, 4_194_304, u32::MAX] {
            let [near, far] = addresses(id);
            assert_ne!(near, far);
            for address in [near, far, addresses(id.wrapping_add(1))[0]] {
                assert_eq!(address.octets()[0], 198);
                assert!(matches!(address.octets()[1], 18 | 19));
            }
            assert!(!addresses(id.wrapping_add(1)).contains(&near));
        }
    }
}
