//! Every policy that docs/policy.md shows is a policy: it loads, and its tests pass.

use std::path::Path;

use culvert_config::policy_file;

#[test]
fn every_policy_of_the_documentation_loads() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let blocks: Vec<&str> = text
        .split("```toml\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert!(
        blocks.len() >= 4,
        "only {} policies are shown",
        blocks.len()
    );
    for (index, block) in blocks.iter().enumerate() {
        policy_file::parse(block, &file)
            .unwrap_or_else(|error| panic!("policy {} of the page: {error}", index + 1));
    }
}

#[test]
fn every_preset_and_every_finding_is_in_the_documentation() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    let text = std::fs::read_to_string(file).unwrap();
    for name in policy_file::preset::names() {
        assert!(text.contains(&format!("| `{name}` |")), "{name}");
    }
    for code in culvert_policy::FindingCode::ALL {
        assert!(
            text.contains(&format!("| `{}` |", code.as_str())),
            "{code:?}"
        );
    }
}
