//! The project's Markdown files: their code blocks, links and headings.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One Markdown file.
pub struct Page {
    /// The file's path relative to the project's folder.
    pub name: String,
    pub path: PathBuf,
    text: String,
}

/// A fenced block of code.
#[derive(Debug, Clone)]
pub struct Block {
    /// The text after the opening fence, such as `js run`.
    pub info: String,
    /// The number of the first line after the opening fence, counted from 1.
    pub line: usize,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = root().join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), path, text }
    }

    /// Every Markdown file of the project, except in hidden folders, `target`, `node_modules` and linked folders.
    pub fn all() -> Vec<Self> {
        fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let is_ours = !name.starts_with('.') && name != "target" && name != "node_modules";
                if path.is_dir() && is_ours && !path.is_symlink() {
                    collect(&path, found);
                } else if path.extension().is_some_and(|extension| extension == "md") {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        collect(root(), &mut found);
        found.sort();
        found.iter().map(|path| Self::read(path.strip_prefix(root()).unwrap().to_str().unwrap())).collect()
    }

    /// The lines of the file: the number, the text, and whether the line belongs to a code block, fences included.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let mut within = false;
        self.text.lines().enumerate().map(move |(at, line)| {
            let is_fence = line.trim_start().starts_with("```");
            within ^= is_fence;
            (at + 1, line, within || is_fence)
        })
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (line, text, _) in self.lines().filter(|(_, _, is_code)| *is_code) {
            match text.trim_start().strip_prefix("```") {
                Some(info) if !open => {
                    blocks.push(Block { info: info.trim().to_owned(), line: line + 1, text: String::new() });
                    open = true;
                }
                Some(_) => open = false,
                None => {
                    let block = blocks.last_mut().expect("an opening fence came before");
                    block.text.push_str(text);
                    block.text.push('\n');
                }
            }
        }
        assert!(!open, "{}: a code block has no closing fence", self.name);
        blocks
    }

    /// The contents of all comments with this name. The comment `<!-- server: NAME=value -->` has the name `server` and
    /// the content `NAME=value`.
    pub fn remarks(&self, name: &str) -> Vec<String> {
        let begin = format!("<!-- {name}: ");
        let said = self.text.lines().filter_map(|line| line.trim().strip_prefix(&begin)?.strip_suffix(" -->"));
        said.map(str::to_owned).collect()
    }

    /// The lines outside code blocks with their line numbers, without inline code.
    fn prose(&self) -> impl Iterator<Item = (usize, String)> {
        let prose = self.lines().filter(|(_, _, is_code)| !is_code);
        prose.map(|(at, line, _)| (at, line.split('`').step_by(2).collect::<Vec<_>>().join("``")))
    }

    /// The targets of all links in the file, with their line numbers.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (at, line) in self.prose() {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            links.extend(targets.map(|target| (at, target.to_owned())));
        }
        links
    }

    /// The anchors of all headings in the file, as GitHub and similar renderers generate them.
    pub fn anchors(&self) -> Vec<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let headings = self.lines().filter(|(_, line, is_code)| !is_code && line.starts_with('#'));
        let anchors = headings.map(|(_, line, _)| {
            let anchor = anchor(line.trim_start_matches('#'));
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        });
        anchors.collect()
    }

    /// The rows of the first table whose header begins with these cells, without backticks.
    pub fn table(&self, head: &[&str]) -> Vec<Vec<String>> {
        let cells = |line: &str| -> Option<Vec<String>> {
            let inside = line.trim().strip_prefix('|')?.strip_suffix('|')?;
            Some(inside.split('|').map(|cell| cell.trim().replace('`', "")).collect())
        };
        let mut lines = self.text.lines().map(cells).skip_while(|row| {
            !row.as_ref().is_some_and(|row| row.len() >= head.len() && row.iter().zip(head).all(|(a, b)| a == b))
        });
        assert!(lines.next().is_some(), "{} has no table {head:?}", self.name);
        lines.skip(1).map_while(|row| row).collect()
    }
}

/// The anchor of a heading: lower case, dashes instead of spaces, no punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
