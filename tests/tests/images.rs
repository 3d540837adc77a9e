//! The images are built from the workspace as it is (`Dockerfile.relay`, `Dockerfile.agent`). No container
//! engine is needed to see that what they are built from is all there.

use std::path::Path;

const FILES: [&str; 2] = ["Dockerfile.relay", "Dockerfile.agent"];

fn read(file: &str) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(workspace.join(file)).unwrap()
}

#[test]
fn the_build_gets_every_crate_of_the_workspace() {
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap();
    let members = members.split(']').next().unwrap().split(',');
    let ignore = read(".dockerignore");
    for member in members.map(|member| member.trim().trim_matches('"')) {
        let folder = member.split('/').next().unwrap();
        let taken = format!("!{folder}");
        assert!(
            ignore.lines().any(|line| line == taken),
            "{member} is a crate of the workspace, and .dockerignore keeps it out"
        );
    }
}

#[test]
fn the_build_gets_the_script_that_it_runs_and_those_that_this_one_runs() {
    let ignore = read(".dockerignore");
    let is_taken = |script: &str| ignore.lines().any(|line| line == format!("!{script}"));
    for file in FILES {
        let text = read(file);
        let build = text
            .lines()
            .find(|line| line.starts_with("RUN CARGO_"))
            .unwrap();
        let script = build.split("bash ").nth(1).unwrap();
        assert!(is_taken(script), "{file}: {script}");
        let lines = read(script);
        for line in lines.lines().map(str::trim) {
            let Some(words) = line.strip_prefix("bash ") else {
                continue;
            };
            let further = words.split(' ').next().unwrap();
            assert!(!read(further).is_empty());
            assert!(is_taken(further), "{file}: {script}: {further}");
        }
    }
}

#[test]
fn both_images_share_one_build() {
    let build = |file| {
        let text = read(file);
        let (build, _) = text.split_once("\n\n# Exactly the files").unwrap();
        let (_, build) = build.split_once("\nFROM ").unwrap();
        build.to_owned()
    };
    assert_eq!(build(FILES[0]), build(FILES[1]));
}
