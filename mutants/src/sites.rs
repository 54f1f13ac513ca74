//! Where the sources can be weakened, and the text that makes it so at the turn of a switch.
//!
//! | mutant | what it does |
//! |---|---|
//! | ordering | `Acquire` and `Release` become `Relaxed`; `AcqRel` also becomes `Acquire`, and `Release`; a fence's `SeqCst`, `AcqRel` |
//! | tag | a stack's head is changed without counting up its tag |
//! | split | a read-modify-write becomes a load and a store |
//! | order | a write comes after what publishes it |
//!
//! Words that only steer, by the code's own documentation right whatever they say, are not split: the clock, the hints
//! where a search begins, whether it is worth another look, the marks of a page's age. Faults that the sources plant for the models' twins are no part of the shipped code and are passed over, as are unit
//! tests. No edit adds a line, so lines are those of the source.

use std::collections::BTreeMap;
use std::ops::Range;

use proc_macro2::Span;
use quote::ToTokens;
use serde::Serialize;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Read-modify-writes, each with a `split_` twin.
const EXCHANGES: [&str; 8] = [
    "compare_exchange",
    "compare_exchange_weak",
    "swap",
    "fetch_add",
    "fetch_sub",
    "fetch_and",
    "fetch_or",
    "fetch_min",
];
/// Words that only steer: what they are called on, from the start.
const STEER: [&str; 9] =
    ["clock.", "visit", "asked", "aged()", "hint", "dirty_hint", "changes", "books.changes", "hand"];
/// What is no write: it steers, counts what only its thread looks at, speaks to the system or the processor, or names a
/// point for tests.
const NO_WRITES: [&str; 11] = [
    "count",
    "prefetch",
    "prefetch_read",
    "prefetch_write",
    "discharge",
    "advise_thp",
    "ebb",
    "flow",
    "stir",
    "debug_assert",
    "point",
];
/// Functions of the crate that publish what was written before: hand-overs by name.
const HAND_OVERS: [&str; 17] = [
    "push",
    "push_if",
    "give",
    "give_run",
    "give_zero_run",
    "give_large",
    "publish",
    "put",
    "put_spare",
    "set_bits",
    "unclaim",
    "leave",
    "join",
    "bound",
    "retire",
    "drain",
    "settle",
];

/// One weakening of one place.
#[derive(Clone, Debug, Serialize)]
pub struct Mutant {
    pub id: u32,
    pub file: String,
    pub line: usize,
    /// Type and function that it stands in.
    pub function: String,
    /// Which of the same text, in the same function, counted from one.
    pub ordinal: usize,
    /// What was written, and what stands for it.
    pub text: String,
}

impl Mutant {
    /// What names it although lines shift.
    pub fn key(&self) -> String {
        format!("{} {} {} {}", self.file, self.function, self.text, self.ordinal)
    }
}

/// A file's mutants, and its text with all of them in it.
pub struct Mutated {
    pub mutants: Vec<Mutant>,
    pub text: String,
}

/// Finds the mutants of a file, numbered from `first`, and puts in those that `wanted` lets through.
pub fn mutate(file: &str, text: &str, first: u32, wanted: impl Fn(&Mutant) -> bool) -> syn::Result<Mutated> {
    let parsed = syn::parse_file(text)?;
    let mut finder = Finder { file, text, next: first, function: Vec::new(), mutants: Vec::new(), edits: Vec::new() };
    finder.visit_file(&parsed);
    let Finder { mut mutants, edits, .. } = finder;
    let mut seen = BTreeMap::new();
    for mutant in &mut mutants {
        let count = seen.entry((mutant.function.clone(), mutant.text.clone())).or_insert(0);
        *count += 1;
        mutant.ordinal = *count;
    }
    let lets_through = |id: u32| mutants.iter().find(|mutant| mutant.id == id).is_none_or(&wanted);
    let edits = edits.into_iter().filter(|edit| edit.ids.clone().all(lets_through)).collect();
    Ok(Mutated { text: apply(text, edits), mutants })
}

/// A change of the text around a range, or of the range itself, for the mutants `ids`.
struct Edit {
    ids: Range<u32>,
    range: Range<usize>,
    before: String,
    after: String,
    /// In place of what is in the range.
    instead: Option<String>,
}

/// Outer edits enclose inner ones.
fn apply(text: &str, edits: Vec<Edit>) -> String {
    let mut inserts: Vec<(usize, (u8, i64, i64), String)> = Vec::new();
    let mut gaps: Vec<Range<usize>> = Vec::new();
    for (at, edit) in edits.into_iter().enumerate() {
        let (start, end, at) = (edit.range.start as i64, edit.range.end as i64, at as i64);
        // At one place: ends before beginnings; of ends the inner first, of beginnings the outer first.
        inserts.push((edit.range.start, (1, -end, at), edit.before));
        inserts.push((edit.range.end, (0, -start, -at), edit.after));
        if let Some(instead) = edit.instead {
            inserts.push((edit.range.start, (2, 0, at), instead));
            gaps.push(edit.range);
        }
    }
    inserts.sort();
    let mut result = String::new();
    let mut copied = 0;
    for (place, _, insert) in inserts {
        copy(text, copied..place, &gaps, &mut result);
        copied = copied.max(place);
        result += &insert;
    }
    copy(text, copied..text.len(), &gaps, &mut result);
    result
}

fn copy(text: &str, range: Range<usize>, gaps: &[Range<usize>], result: &mut String) {
    let kept = |at: &usize| !gaps.iter().any(|gap| gap.contains(at));
    result.extend(text.char_indices().filter(|(at, _)| range.contains(at) && kept(at)).map(|(_, letter)| letter));
}

struct Finder<'a> {
    file: &'a str,
    text: &'a str,
    next: u32,
    function: Vec<String>,
    mutants: Vec<Mutant>,
    edits: Vec<Edit>,
}

impl Finder<'_> {
    fn add(&mut self, span: Span, text: String) -> u32 {
        let id = self.next;
        self.next += 1;
        self.mutants.push(Mutant {
            id,
            file: self.file.into(),
            line: span.start().line,
            function: self.function.join("::"),
            ordinal: 0,
            text,
        });
        id
    }

    fn edit(&mut self, ids: Range<u32>, span: Span, before: String, after: &str) {
        self.edits.push(Edit { ids, range: span.byte_range(), before, after: after.into(), instead: None });
    }

    fn source(&self, span: Span) -> String {
        let text = &self.text[span.byte_range()];
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn in_function(&mut self, name: String, visit: impl FnOnce(&mut Self)) {
        self.function.push(name);
        visit(self);
        self.function.pop();
    }

    fn ordering(&mut self, path: &syn::ExprPath) {
        let Some(name) = ordering_of(path) else { return };
        let weaker: &[&str] = match name.as_str() {
            "AcqRel" => &["Relaxed", "Acquire", "Release"],
            "Acquire" | "Release" => &["Relaxed"],
            "SeqCst" => &["AcqRel"],
            _ => return,
        };
        let first = self.next;
        for weak in weaker {
            self.add(path.span(), format!("{name} -> {weak}"));
        }
        let list: Vec<String> = weaker.iter().map(|weak| format!("Ordering::{weak}")).collect();
        let ids = first..self.next;
        let before = format!("crate::sync::weakened({first}, ");
        self.edit(ids, path.span(), before, &format!(", &[{}])", list.join(", ")));
    }

    fn exchange(&mut self, call: &syn::ExprMethodCall) {
        let name = call.method.to_string();
        let is_exchange = match name.as_str() {
            "compare_exchange" | "compare_exchange_weak" => call.args.len() == 4,
            _ => call.args.len() == 2,
        };
        if !is_exchange || !EXCHANGES.contains(&name.as_str()) {
            return;
        }
        let word = receiver(call);
        if STEER.iter().any(|start| word.starts_with(start)) {
            return;
        }
        let id = self.add(call.method.span(), format!("{word}.{name} -> load, store"));
        let split = name.strip_suffix("_weak").unwrap_or(&name);
        let range = call.method.span().byte_range();
        let instead = Some(format!("split_{split}"));
        self.edits.push(Edit { ids: id..id + 1, range, before: String::new(), after: String::new(), instead });
        let open = call.paren_token.span.open();
        self.edit(id..id + 1, open, String::new(), &format!("{id}, "));
    }

    fn tag(&mut self, call: &syn::ExprMethodCall) {
        if call.method != "change" || call.args.len() != 1 || self.file != "stack.rs" {
            return;
        }
        let id = self.add(call.method.span(), format!("{} -> keep_tag", self.source(call.span())));
        let (head, index) = (call.receiver.to_token_stream(), call.args.to_token_stream());
        let before = format!("(if crate::sync::on({id}) {{ {head}.keep_tag({index}) }} else {{ ");
        self.edit(id..id + 1, call.span(), before, " })");
    }

    /// Has the write before each publication in a block come after it.
    fn order(&mut self, block: &syn::Block) {
        for (at, statement) in block.stmts.iter().enumerate() {
            let before = block.stmts[..at].iter().rev();
            let Some(write) = before.take_while(passes).find(|write| is_write(write)) else { continue };
            let mut found = Publications::default();
            found.visit_stmt(statement);
            if !found.here.is_empty() {
                for publication in found.here {
                    self.after(write, publication.span(), publication.method.to_string(), |before, after| {
                        ("({ let published = ".to_owned(), format!("; {before}{after} published }})"))
                    });
                }
            } else if found.within && !found.leaves && (at + 1 < block.stmts.len() || is_without_value(statement)) {
                self.after(write, statement.span(), self.source(statement.span()), |before, after| {
                    (String::new(), format!(" {before}{after}"))
                });
            }
        }
    }

    fn after(&mut self, write: &syn::Stmt, span: Span, what: String, wrap: impl Fn(&str, &str) -> (String, String)) {
        let said = shorten(&self.source(write.span()));
        let id = self.add(write.span(), format!("{said} after {}", shorten(&what)));
        let again = write.to_token_stream().to_string();
        let (before, after) = wrap(&format!("if crate::sync::on({id}) {{ "), &format!("{again} }}"));
        self.edit(id..id + 1, write.span(), format!("if !crate::sync::on({id}) {{ "), " }");
        self.edit(id..id + 1, span, before, &after);
    }
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

fn ordering_of(path: &syn::ExprPath) -> Option<String> {
    let segments: Vec<String> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    match &segments[..] {
        [first, name] if first == "Ordering" => Some(name.clone()),
        _ => None,
    }
}

/// The last name of what a method is called on.
fn receiver(call: &syn::ExprMethodCall) -> String {
    let text = call.receiver.to_token_stream().to_string();
    text.replace(' ', "").trim_start_matches("self.").to_owned()
}

/// The search for a write goes back over these: what is no write, and cannot leave the block.
fn passes(statement: &&syn::Stmt) -> bool {
    let mut finder = Publications::default();
    finder.visit_stmt(statement);
    let stays = matches!(statement, syn::Stmt::Local(_)) || is_planted(statement) || !finder.leaves;
    stays && !matches!(statement, syn::Stmt::Item(_))
}

/// Visits an `if`, but of one that asks for a planted fault only what ships.
fn visit_unplanted<'a>(visitor: &mut impl Visit<'a>, branch: &'a syn::ExprIf) {
    if plants(&branch.cond) != Some(true) {
        visit::visit_expr_if(visitor, branch);
    } else if let Some((_, otherwise)) = &branch.else_branch {
        visitor.visit_expr(otherwise);
    }
}

/// `Some(true)`: the expression holds only with a fault planted; `Some(false)`: only without.
fn plants(condition: &syn::Expr) -> Option<bool> {
    let text = condition.to_token_stream().to_string().replace(' ', "");
    text.contains("planted(").then(|| !text.contains("!planted("))
}

fn is_planted(statement: &syn::Stmt) -> bool {
    matches!(statement, syn::Stmt::Expr(syn::Expr::If(branch), _) if plants(&branch.cond) == Some(true))
}

/// A statement that can come later: it calls something, is more than a count, and leads nowhere else.
fn is_write(statement: &syn::Stmt) -> bool {
    let syn::Stmt::Expr(expression, _) = statement else { return false };
    let mut finder = Publications::default();
    finder.visit_expr(expression);
    if finder.leaves || !finder.calls || is_planted(statement) || is_count(expression) {
        return false;
    }
    if let syn::Expr::MethodCall(call) = expression {
        let word = receiver(call);
        if STEER.iter().any(|start| word.starts_with(start)) {
            return false;
        }
    }
    let text = expression.to_token_stream().to_string();
    let is_none =
        |word: &&str| text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|part| part == *word);
    if matches!(expression, syn::Expr::MethodCall(_) | syn::Expr::Call(_) | syn::Expr::If(_))
        && NO_WRITES.iter().any(is_none)
    {
        return false;
    }
    !matches!(expression, syn::Expr::Macro(_) | syn::Expr::Match(_) | syn::Expr::Assign(_) | syn::Expr::Binary(_))
}

/// Whether more can be put behind it, be it the last of its block.
fn is_without_value(statement: &syn::Stmt) -> bool {
    match statement {
        syn::Stmt::Expr(syn::Expr::If(branch), _) => branch.else_branch.is_none(),
        syn::Stmt::Expr(_, semicolon) => semicolon.is_some(),
        _ => false,
    }
}

/// A count, which is published by nobody; or such under a condition.
fn is_count(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::MethodCall(call) => {
            let relaxed = call.args.iter().any(|argument| argument.to_token_stream().to_string().contains("Relaxed"));
            let name = call.method.to_string();
            relaxed && (name.starts_with("fetch_add") || name.starts_with("fetch_sub"))
        }
        syn::Expr::If(branch) if branch.else_branch.is_none() => branch
            .then_branch
            .stmts
            .iter()
            .all(|statement| matches!(statement, syn::Stmt::Expr(expression, _) if is_count(expression))),
        _ => false,
    }
}

/// What a statement publishes, itself or in blocks within; and whether it may leave the block.
#[derive(Default)]
struct Publications<'a> {
    here: Vec<&'a syn::ExprMethodCall>,
    within: bool,
    leaves: bool,
    calls: bool,
    depth: usize,
}

fn publishes(call: &syn::ExprMethodCall) -> bool {
    let name = call.method.to_string();
    if name == "store" || EXCHANGES.contains(&name.as_str()) {
        let text: String = call.args.iter().map(|argument| argument.to_token_stream().to_string() + " ").collect();
        return ["Release", "AcqRel", "publish "].iter().any(|word| text.contains(word));
    }
    // A thread's own bin is pushed to with one argument, and hands nothing over.
    HAND_OVERS.contains(&name.as_str()) && !(name == "push" && call.args.len() == 1)
}

impl<'a> Visit<'a> for Publications<'a> {
    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        self.calls = true;
        if publishes(call) {
            if self.depth == 0 {
                self.here.push(call);
            } else {
                self.within = true;
            }
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        self.calls = true;
        visit::visit_expr_call(self, call);
    }

    fn visit_block(&mut self, block: &'a syn::Block) {
        self.depth += 1;
        visit::visit_block(self, block);
        self.depth -= 1;
    }

    fn visit_expr_closure(&mut self, closure: &'a syn::ExprClosure) {
        self.depth += 1;
        visit::visit_expr_closure(self, closure);
        self.depth -= 1;
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        self.depth += 1;
        visit::visit_arm(self, arm);
        self.depth -= 1;
    }

    fn visit_expr_if(&mut self, branch: &'a syn::ExprIf) {
        visit_unplanted(self, branch);
    }

    fn visit_expr_return(&mut self, _: &'a syn::ExprReturn) {
        self.leaves = true;
    }

    fn visit_expr_break(&mut self, _: &'a syn::ExprBreak) {
        self.leaves = true;
    }

    fn visit_expr_continue(&mut self, _: &'a syn::ExprContinue) {
        self.leaves = true;
    }

    fn visit_expr_try(&mut self, _: &'a syn::ExprTry) {
        self.leaves = true;
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
            _ => None,
        };
        self.in_function(name.unwrap_or_default(), |finder| visit::visit_item_impl(finder, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.in_function(item.sig.ident.to_string(), |finder| visit::visit_impl_item_fn(finder, item));
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.in_function(item.sig.ident.to_string(), |finder| visit::visit_item_fn(finder, item));
    }

    fn visit_block(&mut self, block: &'a syn::Block) {
        self.order(block);
        visit::visit_block(self, block);
    }

    fn visit_expr_if(&mut self, branch: &'a syn::ExprIf) {
        visit_unplanted(self, branch);
    }

    fn visit_expr_path(&mut self, path: &'a syn::ExprPath) {
        self.ordering(path);
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        self.exchange(call);
        self.tag(call);
        visit::visit_expr_method_call(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let mutated = mutate("stack.rs", source, 1, |_| true).unwrap();
        syn::parse_file(&mutated.text).unwrap_or_else(|error| panic!("{error}: {}", mutated.text));
        assert_eq!(mutated.text.lines().count(), source.lines().count());
        mutated.mutants.into_iter().map(|mutant| mutant.text).collect()
    }

    #[test]
    fn each_ordering_is_weakened() {
        let source =
            "fn f() { let x = a.load(Ordering::Acquire); a.store(1, Ordering::Release); g(Ordering::Relaxed); }";
        assert_eq!(texts(source), ["Acquire -> Relaxed", "Release -> Relaxed"]);
        let source = "fn f() { let x = a.fetch_or(1, Ordering::AcqRel); }";
        let all = ["a.fetch_or -> load, store", "AcqRel -> Relaxed", "AcqRel -> Acquire", "AcqRel -> Release"];
        assert_eq!(texts(source), all);
        assert_eq!(texts("fn f() { fence(Ordering::SeqCst); }"), ["SeqCst -> AcqRel"]);
    }

    #[test]
    fn tags_are_kept() {
        assert_eq!(texts("fn f() { let new = head.change(next); }"), ["head.change(next) -> keep_tag"]);
    }

    #[test]
    fn writes_come_after_what_publishes_them() {
        let source = "fn f() { link.store(1, R); let x = 2;\n match head.swap(x, Ordering::Release) { _ => {} } }";
        assert_eq!(texts(source)[0], "link.store(1, R); after swap");
        let source = "fn f() { node.set(1);\n if x { list.push(nodes, node); } else { list.give(node); } g(); }";
        assert!(texts(source)[0].starts_with("node.set(1); after if x"));
        let counts = "fn f() { n.fetch_add(1, Ordering::Relaxed); list.push(nodes, node); }";
        assert_eq!(texts(counts), ["n.fetch_add -> load, store"]);
        // What lies between is passed over.
        let source = "fn f() { node.set(1); if x > 0 { n.fetch_add(1, Ordering::Relaxed); } got += 1; point(P); list.push(nodes, node); }";
        assert_eq!(texts(source)[0], "node.set(1); after push");
        assert!(texts("fn f() { node.set(1); if x() { return; } list.push(nodes, node); }").is_empty());
        assert!(texts("fn f() { if x() { return; } list.push(nodes, node); }").is_empty());
    }

    #[test]
    fn planted_faults_and_tests_are_passed_over() {
        let source = "fn f() { let o = if planted(F) { Ordering::Acquire } else { Ordering::Release }; }";
        assert_eq!(texts(source), ["Release -> Relaxed"]);
        let source = "fn f() { if !planted(F) { a.store(1, Ordering::Release); } }";
        assert_eq!(texts(source), ["Release -> Relaxed"]);
        assert!(texts("mod tests { fn f() { a.load(Ordering::Acquire); } }").is_empty());
    }

    #[test]
    fn names_survive_shifts_and_tell_equals_apart() {
        let source = "fn f() { a.load(Ordering::Acquire); a.load(Ordering::Acquire); }";
        let keys = |source: &str| -> Vec<String> {
            mutate("x.rs", source, 1, |_| true).unwrap().mutants.iter().map(Mutant::key).collect()
        };
        assert_eq!(keys(source), keys(&format!("\n\n{source}")));
        assert_eq!(keys(source)[1], "x.rs f Acquire -> Relaxed 2");
    }
}
