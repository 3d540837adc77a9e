//! Long bodies of which every byte can be checked: the numbers 0, 1, 2 and so on as 64 bits.
//!
//! A byte that is lost, repeated or swapped anywhere shows at once, and neither side holds more
//! than one block.

/// Bytes made at a time. A multiple of 8.
pub const BLOCK: usize = 64 * 1024;

/// Makes the body.
#[derive(Debug, Default)]
pub struct Source {
    next: u64,
}

impl Source {
    /// The next [`BLOCK`] bytes.
    pub fn fill(&mut self, block: &mut [u8; BLOCK]) {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next.to_le_bytes());
            self.next += 1;
        }
    }
}

/// Checks the body.
#[derive(Debug, Default)]
pub struct Check {
    length: u64,
    broken_at: Option<u64>,
    rest: Vec<u8>,
}

impl Check {
    /// Takes the next bytes, in pieces of any size.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !self.rest.is_empty() && !bytes.is_empty() {
            self.rest.push(bytes[0]);
            bytes = &bytes[1..];
            if let Ok(word) = <[u8; 8]>::try_from(self.rest.as_slice()) {
                self.rest.clear();
                self.word(word);
            }
        }
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(word.try_into().expect("8 bytes"));
        }
        self.rest.extend_from_slice(words.remainder());
    }

    fn word(&mut self, word: [u8; 8]) {
        if u64::from_le_bytes(word) != self.length / 8 {
            self.broken_at.get_or_insert(self.length);
        }
        self.length += 8;
    }

    /// How many bytes came, if all were right; else where the first wrong one was.
    pub fn result(&self) -> Result<u64, String> {
        match self.broken_at {
            None => Ok(self.length + self.rest.len() as u64),
            Some(at) => Err(format!("wrong bytes within 8 of {at}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_are_the_same_body_and_a_lost_byte_is_found() {
        let mut block = [0; BLOCK];
        let mut source = Source::default();
        let mut body = Vec::new();
        for _ in 0..2 {
            source.fill(&mut block);
            body.extend_from_slice(&block);
        }
        for size in [1, 3, 7, 8, 13, 4096, body.len()] {
            let mut check = Check::default();
            body.chunks(size).for_each(|piece| check.take(piece));
            assert_eq!(check.result(), Ok(body.len() as u64), "in pieces of {size}");
        }
        body.remove(70_001);
        let mut check = Check::default();
        check.take(&body);
        assert_eq!(check.result(), Err("wrong bytes within 8 of 70000".into()));
    }
}
