//! Runs the proofs.

fn main() {
    use tokenward_proof::model::*;
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "mutants" {
        for m in Mutant::ALL {
            if a.len() > 2 && a[2] != format!("{m:?}") { continue; }
            let mut s = Scope::mutated(m);
            if let Some(x) = a.get(3) { s.disturbances = x.parse().unwrap(); }
            if let Some(x) = a.get(4) { s.callers = x.parse().unwrap(); }
            let b = std::time::Instant::now();
            let r = explore_any(&s);
            println!("{m:?} {} {:?} {:?}", r.states, b.elapsed(), r.violations);
        }
        return;
    }
    for p in Policy::ALL {
        if a.len() > 2 && a[2] != p.name() { continue; }
        let mut s = Scope::quick(p);
        s.disturbances = a[1].parse().unwrap();
        if let Some(x) = a.get(3) { s.asks = x.parse().unwrap(); }
        if let Some(x) = a.get(4) { s.callers = x.parse().unwrap(); }
        if let Some(x) = a.get(5) { s.horizon = x.parse().unwrap(); }
        if let Some(x) = a.get(6) { s.patience = x.parse().unwrap(); }
        let r = explore(&s);
        println!("{} states {} depth {} took {:?}", p.name(), r.states, r.depth, r.took);
        for (v, t) in r.violations { println!("  {v}\n    {t}"); }
    }
}
