//! Runs the fuzz targets on their seeds in every build. Each input for which fuzzing finds a bug becomes a seed, so the
//! bug cannot return unnoticed.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod properties;

#[test]
fn fuzz_properties_hold_for_every_seed() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, check) in properties::CHECKS {
        let entries = fs::read_dir(seeds.join(target)).unwrap_or_else(|error| panic!("seeds of {target}: {error}"));
        let mut entries: Vec<fs::DirEntry> = entries.map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        assert!(!entries.is_empty(), "{target} has no seed");
        for seed in entries {
            // If a property fails, the last line of the output names the seed.
            println!("{target}/{}", seed.file_name().display());
            check(&fs::read(seed.path()).unwrap());
        }
    }
}
