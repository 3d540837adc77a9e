//! The images are built from the workspace as it is (`Dockerfile.relay`, `Dockerfile.agent`). No container
//! engine is needed to see that what they are built from is all there.

use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::process::program;

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

/// Loaded by the image's own loader, a program finds every library in its image and none elsewhere.
#[test]
fn a_program_finds_its_libraries_in_its_image() {
    for (file, name) in FILES.into_iter().zip(["culvert-relay", "culvert-agent"]) {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().to_str().unwrap();
        let text = read(file);
        let (_, steps) = text.split_once("\nRUN mkdir ").unwrap();
        let (steps, _) = steps.split_once("\n\n").unwrap();
        let built = program(name);
        let steps = format!("mkdir {steps}")
            .replace("/image", image)
            .replace(&format!("target/profiled/{name}"), built.to_str().unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &steps]);
        assert!(shell.status().unwrap().success(), "{file}");

        let libraries = files(folder.path());
        let is_loader = |path: &&PathBuf| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("ld-linux")
        };
        let loader = libraries.iter().find(is_loader).expect("a loader");
        let folders: Vec<_> = libraries
            .iter()
            .map(|path| path.parent().unwrap().to_str().unwrap())
            .collect();
        let output = Command::new(loader)
            .args([
                "--list",
                "--inhibit-cache",
                "--library-path",
                &folders.join(":"),
            ])
            .arg(folder.path().join("usr/bin").join(name))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let listed = String::from_utf8(output.stdout).unwrap();
        let found: Vec<_> = listed
            .lines()
            .filter_map(|line| line.split_once(" => "))
            .collect();
        assert!(!found.is_empty(), "{listed}");
        for (library, path) in found {
            assert!(
                path.starts_with(image),
                "{file}: {library} is not in the image"
            );
        }
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files
}
