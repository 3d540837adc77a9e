//! Free ports.

/// A loopback port that is free now and that this process does not hand out again soon.
pub fn free() -> u16 {
    culvert_demo::port::free().expect("a free port")
}

/// Whether somebody accepts connections on a loopback port.
pub fn answers(port: u16) -> bool {
    std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_ok()
}
