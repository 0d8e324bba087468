//! `vellum send`, `vellum receive`, `vellum snapshot diff`.
//!
//! Owns which flags go together, where streams go, and what is told meanwhile.

use crate::arguments::transfer::{DiffArguments, ReceiveArguments, SendArguments};
use crate::error::{Error, Result};
use crate::exit::Kind;
use crate::manage::{Manage, with_pool};
use crate::names;
use crate::output::{Output, text};
use crate::pool_directory::PoolDirectory;
use crate::views::{AbortedView, ArrivalView, ArrivalsView, AskDifferenceView, DifferenceView, SendView};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

pub fn send(arguments: &SendArguments, directory: &PoolDirectory, output: Output) -> Result<()> {
    if std::io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "a stream is not for a terminal")
            .hint("write it to a file by `> FILE`, or into `vellum --pool OTHER receive` by a pipe"));
    }
    let volume = names::volume_of(&arguments.snapshot)?;
    let whole_name =
        |from: &String| if names::is_snapshot(from) { from.clone() } else { format!("{volume}@{from}") };
    let what = SendView {
        snapshot: arguments.snapshot.clone(),
        from: arguments.from.as_ref().map(whole_name),
        since: arguments.since,
        resume: arguments.resume.map(|token| token.to_string()),
    };
    let bar = if output.shows_progress() { progress_bar() } else { ProgressBar::hidden() };
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let sent = with_pool(directory, |pool| pool.send(&what, &mut std::io::stdout().lock(), &mut progress));
    bar.finish_and_clear();
    sent
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("sending {bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

pub fn receive(arguments: &ReceiveArguments, directory: &PoolDirectory, output: Output) -> Result<()> {
    let name = arguments.name.as_deref();
    if let Some(name) = name {
        names::check_snapshot(name)?;
    }
    if arguments.resume {
        return tell_arrivals(name, directory, output);
    }
    if arguments.abort {
        return abort(name, directory, output);
    }
    if std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "a stream does not come from a terminal")
            .hint("read it from a file by `< FILE`, or from `vellum send` by a pipe"));
    }
    let received = with_pool(directory, |pool| pool.receive(name, &mut std::io::stdin()))?;
    output.result(&received, text::received)
}

fn tell_arrivals(name: Option<&str>, directory: &PoolDirectory, output: Output) -> Result<()> {
    let arrivals = with_pool(directory, |pool| arrivals_of(pool, name))?;
    if arrivals.is_empty() {
        output.note("nothing has arrived in part");
    }
    // For a name that is given the token alone, for `vellum send --resume`.
    let short = name.is_some();
    output.result(&ArrivalsView { arrivals }, |view| text::arrivals(&view.arrivals, short))
}

fn abort(name: Option<&str>, directory: &PoolDirectory, output: Output) -> Result<()> {
    let aborted = with_pool(directory, |pool| {
        let uuids: Vec<String> = arrivals_of(pool, name)?.into_iter().map(|arrival| arrival.uuid).collect();
        uuids.iter().try_for_each(|uuid| pool.abort(uuid))?;
        Ok(uuids)
    })?;
    if aborted.is_empty() {
        output.note("nothing has arrived in part");
    }
    output.result(&AbortedView { aborted }, |view| text::aborted(&view.aborted))
}

/// All that arrives, or what arrives under a name: then there must be something.
fn arrivals_of(pool: &mut dyn Manage, name: Option<&str>) -> Result<Vec<ArrivalView>> {
    let mut arrivals = pool.arrivals()?;
    if let Some(name) = name {
        arrivals.retain(|arrival| arrival.name == name);
        if arrivals.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("nothing has arrived in part for '{name}'"))
                .hint("`vellum receive --resume` shows what has"));
        }
    }
    Ok(arrivals)
}

pub fn diff(arguments: &DiffArguments, directory: &PoolDirectory, output: Output) -> Result<()> {
    arguments.names.iter().try_for_each(|name| names::check_any(name))?;
    let (from, name) = match (&arguments.names[..], arguments.since) {
        ([from, name], None) => (Some(from.clone()), name.clone()),
        ([name], Some(_)) => (None, name.clone()),
        _ => {
            return Err(Error::new(Kind::Usage, "a difference is between two")
                .hint("name two snapshots or volumes, or one with --since GENERATION"));
        }
    };
    let mut what = AskDifferenceView { name, from, since: arguments.since, offset_bytes: 0 };
    let view = with_pool(directory, |pool| {
        let mut all = DifferenceView::default();
        loop {
            let some = pool.difference(&what)?;
            all.append(some.ranges);
            match some.next_bytes {
                Some(next) => what.offset_bytes = next,
                None => return Ok(all),
            }
        }
    })?;
    output.result(&view, text::difference)
}
