//! `policy show`: the rules that ship with the agent.

use clap::Args;
use culvert_config::policy_file::preset;

use super::ToolError;

/// Which preset.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The preset whose text is printed; without it, the names of all.
    preset: Option<String>,
}

/// The text of a preset, or what each is for.
pub(crate) fn show(args: &ShowArgs) -> Result<String, ToolError> {
    let Some(name) = &args.preset else {
        let lines = preset::names().map(|name| {
            let text = preset::text(name).unwrap_or_default();
            let about: Vec<&str> = text
                .lines()
                .map_while(|line| line.strip_prefix("# "))
                .collect();
            let about = about.join(" ");
            let first = about.split_inclusive(". ").next().unwrap_or_default();
            format!("{name}: {}\n", first.trim())
        });
        return Ok(lines.collect());
    };
    preset::text(name).map(str::to_owned).ok_or_else(|| {
        let known: Vec<_> = preset::names().collect();
        let known = known.join(", ");
        ToolError::Usage(format!("there is no preset {name:?}; there are {known}"))
    })
}
