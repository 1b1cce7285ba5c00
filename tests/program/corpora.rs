//! The seeds of the fuzz targets hold in every build. What a target finds becomes a seed, and stays tested.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod properties;

#[test]
fn every_property_holds_for_every_seed() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, check) in properties::CHECKS {
        let entries = fs::read_dir(seeds.join(target)).unwrap_or_else(|error| panic!("seeds of {target}: {error}"));
        let mut entries: Vec<fs::DirEntry> = entries.map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        assert!(!entries.is_empty(), "{target} has no seed");
        for seed in entries {
            // Shown where a property fails: the last line is the seed.
            println!("{target}/{}", seed.file_name().display());
            check(&fs::read(seed.path()).unwrap());
        }
    }
}
