//! Valgrind's reports.

/// The paragraphs of valgrind's report that have a frame in hsmkey.so.
pub fn ours(report: &str) -> Vec<String> {
    // Each line begins ==PID==; a paragraph ends at a line with nothing else.
    let lines = report
        .lines()
        .map(|line| line.trim_start_matches("==").split_once("==").map_or("", |(_, text)| text));
    let text = lines.collect::<Vec<_>>().join("\n");
    let paragraphs = text.split("\n\n").flat_map(|part| part.split("\n \n"));
    paragraphs.filter(|paragraph| paragraph.contains("libhsmkey.so")).map(str::to_owned).collect()
}
