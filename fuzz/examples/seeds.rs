//! Writes what the fuzzer begins with: `corpus/TARGET/NAME`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, name, bytes) in culvert_proto::mux::model::seeds() {
        write(&corpus.join(target), &name, &bytes)?;
    }
    for (target, name, bytes) in culvert_policy::model::seeds() {
        write(&corpus.join(target), name, &bytes)?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(name), bytes)
}
