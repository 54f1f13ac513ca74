//! A server of keys and values under load, and a database in a file.

use super::{On, Run, WATCHDOG, measured_well, well};
use crate::library::run;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// A server, whose cost counts; its clients run on malloc.
pub fn redis(on: On, folder: &Path) -> Run {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port().to_string();
    let mut server = on.command("redis-server");
    server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    server.args(["--dir"]).arg(folder);
    let port_of_client = port.clone();
    let client = std::thread::spawn(move || {
        while TcpStream::connect(format!("127.0.0.1:{port_of_client}")).is_err() {
            std::thread::yield_now();
        }
        let tool = |name: &str, more: &[&str]| well(Command::new(name).args(["-p", &port_of_client]).args(more)).stdout;
        let load = tool("redis-benchmark", &["-q", "-n", "5000", "-d", "200", "-r", "5000", "-c", "20"]);
        let script = "for i = 1, 50000 do redis.call('set', 'key' .. i, string.rep('x', i % 500)) end return 'set'";
        let set = tool("redis-cli", &["eval", script, "0"]);
        let sum = "local n = 0 for i = 1, 50000 do n = n + redis.call('strlen', 'key' .. i) end return n";
        let sum = tool("redis-cli", &["eval", sum, "0"]);
        let kinds: String = load.lines().filter_map(|line| line.trim().split(':').next()).collect();
        let _ = run(Command::new("redis-cli").args(["-p", &port_of_client, "shutdown", "nosave"]), WATCHDOG, &[]);
        assert!(!kinds.is_empty());
        format!("{set}{sum}")
    });
    let ended = measured_well(&server);
    Run::of(ended, client.join().expect("the client's work"))
}

/// Builds a database, changes it, asks it, and checks it.
pub fn sqlite(on: On, folder: &Path) -> Run {
    let script = "pragma synchronous = off; create table t(id integer primary key, name text, part int, body blob);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 150000)
          insert into t select i, 'name ' || (i * 7919 % 150000), i % 97, zeroblob(i % 300) from n;
        create index by_name on t(name); create index by_part on t(part, name);
        update t set name = name || ' again' where part < 20; delete from t where part = 50;
        select part, count(*), sum(length(body)), min(name) from t group by part order by 3 desc, 1 limit 20;
        select count(distinct a.name) from t a join t b on a.name = b.name;
        pragma integrity_check; vacuum; pragma integrity_check;";
    let ended = measured_well(on.command("sqlite3").arg(folder.join("data.db")).arg(script));
    let said = ended.stdout.clone();
    assert!(said.ends_with("ok\nok\n"), "{said}");
    Run::of(ended, said)
}
