//! Whole programs under Millpond and under every rival: how fast, in how much memory, how late at worst.
//!
//! ```text
//! cargo field                                 everything
//! cargo field --quick                         less of everything
//! cargo field --list                          the workloads and the allocators
//! cargo field -w larson,json -t 1,8           some workloads (parts of names), some threads
//! cargo field -a mimalloc3,malloc             beside some allocators
//! cargo field --from target/field/field.json  the tables and the page once more, from a run that was kept
//! ```
//!
//! Each allocator's executable is built apart ([`rivals`]); each run is a process of its own ([`run`]); rounds are
//! interleaved ([`rounds`]); figures are medians of pairs with intervals ([`stats`], [`results`]). They are shown as
//! tables ([`table`]) and as a page ([`page`]), and all rounds are kept as JSON, while the run goes on.

#[path = "../../driver/cargo.rs"]
mod cargo;
#[path = "../../throughput/machine.rs"]
mod machine;
mod options;
mod page;
mod results;
mod rivals;
mod rounds;
mod run;
mod stats;
mod table;
#[path = "../../child/usage.rs"]
mod usage;

use anyhow::Context;
use clap::Parser;
use options::Options;
use results::{Metric, Results};
use std::path::Path;
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let folder = options.out.clone().unwrap_or_else(|| rivals::target_dir().join("field"));
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let results = match &options.from {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let results: Results =
                serde_json::from_slice(&text).with_context(|| format!("{} has no results", path.display()))?;
            results.verify().with_context(|| format!("{} has no results", path.display()))?;
            results
        }
        None => rounds::measure(&options, &folder)?,
    };
    show(&results, &options.table, &folder)?;
    // A rival's troubles are told; ours are a failure.
    let failed = results.cells.iter().any(|cell| !cell.runs[0].failures.is_empty());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list() {
    for workload in millpond_field_child::workloads() {
        println!("{:<18} {}", workload.name, workload.about);
    }
    println!();
    for known in &rivals::KNOWN {
        println!("{:<18} builds with {}", known.name, known.needs);
    }
}

fn show(results: &Results, metrics: &[Metric], folder: &Path) -> anyhow::Result<()> {
    let setup = &results.setup;
    println!(
        "\n{} rounds at scale {}, {} processors: {}{}",
        setup.rounds,
        setup.scale,
        setup.processors,
        setup.processor,
        setup.pages()
    );
    if let Some(share) = setup.share_of_others {
        let percent = share * 100.0;
        println!("other programs took {percent:.0} % of the processors (the more, the less the clock tells)");
    }
    let versions = results.rivals.iter().filter(|rival| rival.missing.is_none());
    println!("{}", versions.map(|rival| format!("{} {}", rival.name, rival.version)).collect::<Vec<_>>().join(" · "));
    let subject = &results.rivals[0].name;
    println!(
        "\nHow many times as much as {subject} each takes, with 95 % intervals: above 1 {subject} is better; * the best rival"
    );
    for &metric in metrics {
        let (title, unit) = metric.title();
        println!("\n{title} ({subject}: {unit})\n{}", table::cells(results, metric));
    }
    println!("\n{}", table::means(results));
    for metric in [Metric::Cpu, Metric::Wall, Metric::Peak, Metric::Settled, Metric::P999] {
        let behind = table::behind(results, metric);
        let (title, _) = metric.title();
        println!(
            "\n{title}: {subject} more than {:.0} % behind the best rival in {}",
            table::MARGIN * 100.0,
            behind.len()
        );
        behind.iter().for_each(|line| println!("  {line}"));
    }
    let troubles = table::troubles(results);
    if !troubles.is_empty() {
        println!("\nnot built, or failed:");
        troubles.iter().for_each(|line| println!("  {line}"));
    }
    let page = folder.join("field.svg");
    std::fs::write(&page, page::draw(results)?).with_context(|| format!("{} cannot be written", page.display()))?;
    println!("\npage: {}", page.display());
    Ok(())
}
