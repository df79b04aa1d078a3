/**
 * Every command, its options and examples. Help, completion and the manual page come from these definitions; what a
 * command does is in `commands/` and loaded when it is called.
 */
import { Command, InvalidArgumentError, Option } from 'commander'
import { version } from '../host/version.ts'
import { define, forEachCommand, group, subcommandTerm } from './definition.ts'
import { defineOverlay } from './overlay-node.ts'
import { defineOverlayServers } from './overlay-servers.ts'

function integer(text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError('must be a whole number.')
  return value
}

/** Milliseconds of `90s`, `30m`, `2h`, `1d`. */
function duration(text: string): number {
  const [, number, unit] = /^(\d{1,6})(s|m|h|d)$/.exec(text) ?? []
  const ms = Number(number) * ({ s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit ?? ''] ?? Number.NaN)
  if (ms >= 1000 && ms < 2 ** 31) return ms
  throw new InvalidArgumentError('must be a time: 90s, 30m, 2h; at most 24d.')
}

function positive(text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new InvalidArgumentError('must be a number above 0.')
  return value
}

function collect(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text]
}

export function buildProgram(): Command {
  const program = new Command('godwit')
    .description('Keeps connections alive while a host moves between networks.')
    .version(version(), '-V, --version', 'print the version')
    .configureOutput({ outputError: () => {} }) // errors.ts says it, in one line
    .configureHelp({ subcommandTerm })
    .showSuggestionAfterError()
    .enablePositionalOptions()
    .exitOverride()
  defineDemo(program)
  defineAnchor(program)
  defineHost(program)
  defineQueries(program)
  defineRouter(program)
  defineDime(program)
  defineMptcp(program)
  defineOverlay(program)
  defineOverlayServers(program)
  defineLab(program)
  defineHelpers(program)
  forEachCommand(program, (command) => command.exitOverride().configureOutput({ outputError: () => {} }))
  return program
}

function defineDemo(program: Command): void {
  define(program, {
    use: 'demo',
    summary: 'show a host that moves between two emulated networks during a real download',
    examples: ['godwit demo', 'godwit demo --out /tmp/demo'],
    without: ['state'],
    options: [
      new Option('--out <dir>', 'where plot, logs and result go'),
      new Option('--seed <number>', 'seed of a run, to repeat it').argParser(integer),
      new Option('--paper-time', 'the timeline of the paper, about 30 s'),
    ],
    run: async (options) => (await import('./commands/lab.ts')).demo(options),
  })
}

function defineAnchor(program: Command): void {
  const anchor = group(program, 'anchor', 'run an anchor: the fixed point that mobile hosts go through')
  define(anchor, {
    use: 'init',
    summary: "write an anchor's configuration and key",
    examples: ['sudo godwit anchor init --endpoint anchor.example.org:51820'],
    options: [new Option('--endpoint <host:port>', 'where hosts reach this anchor').makeOptionMandatory()],
    run: async (options) => (await import('./commands/anchor.ts')).init(options),
  })
  define(anchor, {
    use: 'up',
    summary: 'run the anchor in the foreground; prints `ready` once hosts can join',
    examples: ['sudo godwit anchor up'],
    without: ['json'],
    run: async (options) => (await import('./commands/daemon.ts')).anchorUp(options),
  })
  define(anchor, {
    use: 'invite <name>',
    summary: 'print an invitation for one host: one line, secret, usable once',
    examples: [
      'sudo godwit anchor invite laptop',
      'sudo godwit anchor invite --wg phone --qr --dns 9.9.9.9',
      'sudo godwit anchor invite --wg phone --out phone.conf',
    ],
    options: [
      new Option('--wg', 'print a wg-quick configuration for a stock WireGuard client instead'),
      new Option('--out <file>', 'write to a file that only its owner can read'),
      new Option('--qr', 'with --wg: show a QR code for the WireGuard app of a phone'),
      new Option('--dns <address>', 'with --wg: a name server for that client; repeatable').argParser(
        collect,
      ),
    ],
    run: async (name, options) => (await import('./commands/anchor.ts')).invite(name, options),
  })
  define(anchor, {
    use: 'hosts',
    summary: 'list the hosts that were invited or have joined',
    examples: ['sudo godwit anchor hosts'],
    run: async (options) => (await import('./commands/anchor.ts')).hosts(options),
  })
  define(anchor, {
    use: 'remove <name>',
    summary: 'forget a host: it can no longer use this anchor',
    examples: ['sudo godwit anchor remove laptop'],
    run: async (name, options) => (await import('./commands/anchor.ts')).remove(name, options),
  })
  define(anchor, {
    use: 'rekey',
    summary: 'give this anchor a new key; hosts learn it by themselves, connections continue',
    examples: ['sudo godwit anchor rekey', 'sudo godwit anchor rekey --finish'],
    options: [
      new Option('--finish', 'delete the old key now: hosts that do not have the new one must join again'),
    ],
    details:
      'The anchor must be running. The old key is deleted once nobody needs it: each host has been connected once, invitations made\nbefore are taken or have expired, and stock WireGuard clients have the new public key in their configuration. Run it again to see\nwho is missing.',
    run: async (options) => (await import('./commands/anchor.ts')).rekey(options),
  })
  const protocols = [new Option('--tcp', 'only TCP'), new Option('--udp', 'only UDP')]
  define(anchor, {
    use: 'forward <port> <target>',
    summary: 'forward a port of this anchor to a host, wherever the host is',
    examples: [
      'sudo godwit anchor forward 8080 laptop:80',
      'sudo godwit anchor forward 2222 laptop:22 --tcp',
      'sudo godwit anchor forward 51000 laptop --udp',
    ],
    details:
      "<target> is HOST:PORT with the name of a host (`godwit anchor hosts`), or HOST for the same port. Default: TCP and UDP.\nIPv4 and IPv6. Takes effect at once and survives restarts of both ends. The program on the host sees the client's address.",
    options: [...protocols, new Option('--replace', 'even if a program of this machine listens on the port')],
    run: async (port, target, options) =>
      (await import('./commands/anchor.ts')).forward(port, target, options),
  })
  define(anchor, {
    use: 'forwards',
    summary: 'list the ports that are forwarded to hosts',
    examples: ['godwit anchor forwards', 'godwit anchor forwards --json'],
    run: async (options) => (await import('./commands/anchor.ts')).forwards(options),
  })
  define(anchor, {
    use: 'unforward <port>',
    summary: 'stop forwarding a port',
    examples: ['sudo godwit anchor unforward 8080', 'sudo godwit anchor unforward 8080 --udp'],
    options: protocols,
    run: async (port, options) => (await import('./commands/anchor.ts')).unforward(port, options),
  })
}

function defineHost(program: Command): void {
  define(program, {
    use: 'join [invitation]',
    summary: "add an anchor to this host's configuration, by its invitation",
    examples: ['sudo godwit join -', 'sudo godwit join - < invitation', 'sudo godwit join --wg wg0.conf'],
    options: [new Option('--wg <file>', 'a wg-quick configuration: use a stock WireGuard server as anchor')],
    details:
      '`-` reads the invitation, one line, from standard input. It can also be given as an argument (godwit1.…), but then the secret\nis visible in the list of processes, the log of sudo and the history of the shell.',
    run: async (invitation, options) => (await import('./commands/host.ts')).join(invitation, options),
  })
  define(program, {
    use: 'leave [peer]',
    summary: 'undo `join`: remove an anchor and its keys',
    examples: ['sudo godwit leave', 'sudo godwit leave anchor'],
    run: async (peer, options) => (await import('./commands/host.ts')).leave(peer, options),
  })
  define(program, {
    use: 'rekey',
    summary: 'give this host a new key, without a new invitation; connections continue',
    examples: ['sudo godwit rekey', 'sudo godwit rekey --json'],
    details:
      'The daemon must be running. The old key is deleted once every anchor has the new one; an anchor that cannot be reached now\ngets it later, also after restarts.',
    run: async (options) => (await import('./commands/host.ts')).rekey(options),
  })
  define(program, {
    use: 'ping [peer]',
    summary: 'test each anchor over each access: port, round trip, MTU',
    examples: ['sudo godwit ping', 'sudo godwit ping anchor --json'],
    details: 'Works whether or not the daemon runs. Exit status 0: at least one test succeeded.',
    run: async (peer, options) => (await import('./commands/host.ts')).ping(peer, options),
  })
  define(program, {
    use: 'up',
    summary: 'run the host daemon in the foreground; prints `ready` once traffic can flow',
    examples: ['sudo godwit up', 'sudo godwit up --state /srv/godwit-test'],
    without: ['json'],
    run: async (options) => (await import('./commands/daemon.ts')).hostUp(options),
  })
  define(program, {
    use: 'reload',
    summary: 'apply changes of the configuration without losing flows; list what needs a restart',
    examples: ['sudo godwit reload', 'sudo godwit reload --json'],
    details:
      'Works for every kind of daemon. A file with an error is refused and changes nothing. SIGHUP does the same.',
    run: async (options) => (await import('./commands/daemon.ts')).reload(options),
  })
  define(program, {
    use: 'down',
    summary: 'remove what a killed daemon left: interface, routes, rules, tables, cgroups',
    examples: ['sudo godwit down'],
    run: async (options) => (await import('./commands/daemon.ts')).down(options),
  })
  const run = define(program, {
    use: 'run <command> [arguments...]',
    summary: 'run a program under godwit with a policy of its own',
    examples: [
      'godwit run -- ssh server.example.org',
      'godwit run --access wwan0 -- curl -O https://example.org/big',
      'godwit run --direct -- firefox',
    ],
    without: ['json'],
    options: [
      new Option('--access <name>', 'access for its connections'),
      new Option('--policy <name>', 'a policy of the configuration'),
      new Option('--direct', 'bypass the tunnel, as without godwit; with --access, over that access'),
      new Option('--best-effort', 'if single programs cannot be controlled here, use the general rules'),
    ],
    details: 'Exits with the exit status of the program, and passes signals to it.',
    run: async (command, args, options) => (await import('./commands/run.ts')).run(command, args, options),
  })
  run.passThroughOptions()
  define(program, {
    use: 'move <what> <access>',
    summary: 'move an application, a flow, a class of a router, or `all` to an access now; `auto` undoes it',
    examples: [
      'godwit move all wwan0',
      'godwit move app:curl wlan0',
      'godwit move app:curl auto',
      'godwit move all wwan0 --for 1h',
      'godwit move to:203.0.113.0/24 eth0',
      'godwit move voice wwan0',
    ],
    details:
      '<what> is `all`, a flow id, app:NAME, port:N, user:NAME, to:PREFIX, cgroup:PATH, or several joined by +.\n<access> is an interface, or `auto` to undo moves by hand: the policy decides again.\nOn a router, <what> is also a class, by its name or one of its selectors.',
    options: [
      new Option('--for <time>', 'undo the move after this time: 90s, 30m, 2h, 1d').argParser(duration),
      new Option(
        '--static',
        'the anchor keeps these flows on this access until the next move, even if the host sends on another one',
      ),
    ],
    run: async (what, access, options) => (await import('./commands/query.ts')).move(what, access, options),
  })
}

function defineQueries(program: Command): void {
  const watch = new Option('--watch [seconds]', 'repeat at this interval').argParser(positive)
  define(program, {
    use: 'status',
    summary: 'show the current state: accesses, peers, flows, last handovers',
    examples: ['godwit status', 'godwit status --watch', 'godwit status --json'],
    options: [watch],
    run: async (options) => (await import('./commands/query.ts')).status(options),
  })
  define(program, {
    use: 'paths',
    summary: 'list paths, each from one access to one peer, with their quality',
    examples: ['godwit paths'],
    options: [watch],
    run: async (options) => (await import('./commands/query.ts')).paths(options),
  })
  define(program, {
    use: 'flows',
    summary: 'list flows with their application and access',
    examples: ['godwit flows', 'godwit flows --watch 1'],
    options: [watch],
    run: async (options) => (await import('./commands/query.ts')).flows(options),
  })
  define(program, {
    use: 'peers',
    summary: 'list remote ends and their state',
    examples: ['godwit peers'],
    options: [watch],
    run: async (options) => (await import('./commands/query.ts')).peers(options),
  })
  define(program, {
    use: 'top',
    summary: 'show accesses and flows live: rates, round trips, losses, ages, last gaps',
    examples: ['godwit top', 'godwit top --flows', 'godwit top --json --count 1'],
    details:
      'Keys: q quits, f shows single flows or programs, s sorts by rate, age or name, space pauses, the arrows scroll. Without a\nterminal it prints a table at each interval; with --json, one object per line. The gap of a program is the longest of the last\ngaps of its flows; `?`: not measured. `>`: at least this old. DOWN and UP of an access count all traffic of its interface.',
    options: [
      new Option('--interval <seconds>', 'seconds between updates (default: 1)').argParser(positive),
      new Option('--count <number>', 'end after this many updates').argParser(positive),
      new Option('--flows', 'show single flows instead of programs'),
    ],
    run: async (options) => (await import('./commands/top.ts')).top(options),
  })
  define(program, {
    use: 'why <flow>',
    summary: 'show the decisions that put a flow on its access, with their evidence',
    examples: ['godwit why a8833b8a5f'],
    run: async (flow, options) => (await import('./commands/query.ts')).why(flow, options),
  })
}

function defineRouter(program: Command): void {
  const router = group(program, 'router', 'the gateway of a site: connects subnets over several links')
  define(router, {
    use: 'init',
    summary: "write a gateway's configuration and key; print its card",
    examples: [
      'sudo godwit router init --endpoint home.example.org:51820 --subnet 10.2.0.0/24',
      'sudo godwit router init --access wlan0 --access "wwan*" --subnet 10.1.0.0/24',
    ],
    options: [
      new Option('--subnet <prefix>', 'a subnet behind this gateway; repeatable').argParser(collect),
      new Option('--endpoint <host:port>', 'at home: where mobile routers reach this gateway'),
      new Option(
        '--access <interface>',
        'mobile: a link that it may use; repeatable, most preferred first',
      ).argParser(collect),
    ],
    run: async (options) => (await import('./commands/router.ts')).init(options),
  })
  define(router, {
    use: 'card',
    summary: 'print the card that other gateways need to know this one; not secret',
    examples: ['sudo godwit router card'],
    run: async (options) => (await import('./commands/router.ts')).card(options),
  })
  define(router, {
    use: 'add <name> <card>',
    summary: 'add another gateway by its card; takes effect when the daemon next starts',
    examples: ['sudo godwit router add home godwit-site1.eyJ…'],
    options: [
      new Option('--via <prefix>', 'a subnet of a third site that is reached through this one').argParser(
        collect,
      ),
    ],
    run: async (name, text, options) => (await import('./commands/router.ts')).add(name, text, options),
  })
  define(router, {
    use: 'up',
    summary: 'run this gateway; prints `ready` once traffic can flow',
    examples: ['sudo godwit router up'],
    without: ['json'],
    run: async (options) => (await import('./commands/router.ts')).up(options),
  })
  define(router, {
    use: 'down',
    summary: 'remove what a killed router left in the kernel',
    examples: ['sudo godwit router down'],
    run: async (options) => (await import('./commands/router.ts')).down(options),
  })
  define(router, {
    use: 'classes',
    summary: 'list traffic classes, their schedulers and the paths they use',
    examples: ['godwit router classes', 'godwit router classes --json'],
    run: async (options) => (await import('./commands/router.ts')).classes(options),
  })
  define(router, {
    use: 'scheduler <class> <name>',
    summary: 'change the scheduler of a class while traffic flows',
    examples: ['godwit router scheduler rest duplicate'],
    run: async (name, mode, options) => (await import('./commands/router.ts')).scheduler(name, mode, options),
  })
}

function defineDime(program: Command): void {
  const dime = group(
    program,
    'dime',
    'move connections with hosts that also run godwit, without a tunnel (DIME)',
  )
  define(dime, {
    use: 'up',
    summary: 'run address translation alone, in the foreground; prints `ready`; needs no configuration',
    examples: ['sudo godwit dime up', 'sudo godwit dime up --state /srv/godwit-test'],
    without: ['json'],
    run: async (options) => (await import('./commands/dime.ts')).up(options),
  })
  define(dime, {
    use: 'down',
    summary: 'remove what a killed daemon left: tables, identifiers, rules',
    examples: ['sudo godwit dime down'],
    run: async (options) => (await import('./commands/dime.ts')).down(options),
  })
  define(dime, {
    use: 'hosts',
    summary: 'show the HID table: hosts, their usable and unusable addresses, their keys',
    examples: ['godwit dime hosts', 'godwit dime hosts --json'],
    run: async (options) => (await import('./commands/dime.ts')).hosts(options),
  })
  define(dime, {
    use: 'sockets',
    summary: 'show the socket table: sockets, the addresses they are bound to, and where their packets go',
    examples: ['godwit dime sockets'],
    run: async (options) => (await import('./commands/dime.ts')).sockets(options),
  })
  const key = group(dime, 'key', "keys that sign this host's messages about its addresses")
  define(key, {
    use: 'show',
    summary: "print this host's public keys in the format of a known_keys file",
    examples: ['godwit dime key show'],
    run: async (options) => (await import('./commands/dime.ts')).keyShow(options),
  })
  define(key, {
    use: 'set [addresses...]',
    summary: 'set the private key (from standard input, or new) for all addresses or for some',
    examples: ['sudo godwit dime key set --new', 'sudo godwit dime key set 192.0.2.0/24 < private.key'],
    options: [new Option('--new', 'make a key instead of reading one')],
    details:
      'Without addresses, the key is for all (`*`). A running daemon announces the new key to its peers, signed with the old one.',
    run: async (addresses, options) => (await import('./commands/dime.ts')).keySet(addresses, options),
  })
  define(key, {
    use: 'dns <addresses...>',
    summary: 'the lines of a reverse zone that bind the key of this host to its addresses',
    examples: ['godwit dime key dns 192.0.2.7 2001:db8::7'],
    details:
      'IPSECKEY records (RFC 4025, RFC 9373). Sign the zone (DNSSEC); other hosts believe them with `[dime] directory = "dns"`.',
    run: async (addresses, options) => (await import('./commands/dime.ts')).keyDns(addresses, options),
  })
  define(dime, {
    use: 'nat <inside> <outside>',
    summary: 'run a NAT that speaks IHMP, so that connections can move behind it',
    examples: ['sudo godwit dime nat lan0 wan0'],
    without: ['json'],
    options: [
      new Option('--ports <first-last>', 'range of outside ports for connections'),
      new Option('--port <number>', 'UDP port of IHMP').argParser(integer),
    ],
    run: async (inside, outside, options) =>
      (await import('./commands/dime.ts')).nat(inside, outside, options),
  })
}

function defineMptcp(program: Command): void {
  const mptcp = group(program, 'mptcp', 'translate plain TCP of local programs to Multipath TCP')
  define(mptcp, {
    use: 'up',
    summary: 'run the proxy by itself; prints `ready` once new connections are translated',
    examples: ['sudo godwit mptcp up'],
    without: ['json'],
    run: async (options) => (await import('./commands/mptcp.ts')).up(options),
  })
  define(mptcp, {
    use: 'down',
    summary: 'remove what a killed proxy left in the kernel',
    examples: ['sudo godwit mptcp down'],
    run: async (options) => (await import('./commands/mptcp.ts')).down(options),
  })
  define(mptcp, {
    use: 'connections',
    summary: 'list translated connections with their subflows; `*` marks the one that carries data',
    examples: [
      'godwit mptcp connections',
      'godwit mptcp connections --json',
      'godwit mptcp connections --plot subflows.svg --seconds 30',
    ],
    options: [
      new Option('--plot <file>', 'draw the traffic of the subflows of one connection from now on (SVG)'),
      new Option('--seconds <number>', 'with --plot: duration').argParser(integer).default(10),
      new Option('--connection <id>', 'with --plot: the connection (default: the one with most traffic)'),
    ],
    run: async (options) => (await import('./commands/mptcp.ts')).connections(options),
  })
  define(mptcp, {
    use: 'handover <connection> <access>',
    summary: 'send the data of a connection over the subflow of this access from now on',
    examples: ['sudo godwit mptcp handover m0 wlan0'],
    run: async (connection, access, options) =>
      (await import('./commands/mptcp.ts')).handover(connection, access, options),
  })
  const subflow = group(mptcp, 'subflow', 'add and remove subflows by hand')
  define(subflow, {
    use: 'add <connection> <access>',
    summary: 'add a subflow to a connection, on an access',
    examples: ['sudo godwit mptcp subflow add m0 wwan0'],
    run: async (connection, access, options) =>
      (await import('./commands/mptcp.ts')).addSubflow(connection, access, options),
  })
  define(subflow, {
    use: 'remove <connection> <subflow>',
    summary: 'close a subflow of a connection; another one carries the data',
    examples: ['sudo godwit mptcp subflow remove m0 1'],
    run: async (connection, id, options) =>
      (await import('./commands/mptcp.ts')).removeSubflow(connection, integer(id), options),
  })
}

function defineLab(program: Command): void {
  const link = new Option('--link <conditions>', 'change a link, e.g. acc1:delay=20ms,rate=30mbit').argParser(
    collect,
  )
  const seed = new Option('--seed <number>', 'seed of a run, to repeat it').argParser(integer)
  const lab = group(program, 'lab', 'test moves between emulated networks on this machine')
  define(lab, {
    use: 'list',
    summary: 'list scenarios and topologies, one per line',
    examples: ['godwit lab list'],
    without: ['state'],
    run: async (options) => (await import('./commands/lab.ts')).list(options),
  })
  define(lab, {
    use: 'run <scenario>',
    summary: 'run a scenario; exit status 0 only if all its checks pass',
    examples: ['godwit lab run upmt-swap', 'godwit lab run upmt-blackhole --out /tmp/blackhole --json'],
    without: ['state'],
    options: [
      new Option('--out <dir>', 'where result, plot and logs go'),
      seed,
      link,
      new Option('--full', 'as many handovers as the published figures are based on'),
      new Option('--handovers <number>', 'number of handovers').argParser(integer),
      new Option(
        '--only <words>',
        'only parts of it that have all these words, e.g. proxy-kernel,SACK (mptcp-…)',
      ),
      new Option('--paper-time', 'the timeline of the paper'),
    ],
    run: async (scenario, options) => (await import('./commands/lab.ts')).runOne(scenario, options),
  })
  define(lab, {
    use: 'up <topology>',
    summary: 'build hosts and links, print `ready`, stay until stopped, then remove all of it',
    examples: ['sudo godwit lab up upmt'],
    without: ['state'],
    options: [seed, link],
    run: async (topology, options) => (await import('./commands/lab.ts')).up(topology, options),
  })
  define(lab, {
    use: 'link <change...>',
    summary: 'change links of the running lab: delay, rate, loss, a cut, a black hole',
    examples: [
      'sudo godwit lab link acc1:state=down',
      'sudo godwit lab link acc1:state=up,delay=40ms,loss=1%',
    ],
    without: ['state', 'json'],
    details:
      'NAME:key=value,… with keys delay, jitter, queue, rate, loss, reorder, duplicate, and state: up, down (a link\nevent) or blackhole (no event).',
    run: async (changes) => (await import('./commands/lab.ts')).link(changes),
  })
  define(program, {
    use: 'bench [names...]',
    summary: 'measure godwit and its alternatives in the same run',
    examples: ['sudo godwit bench tunnel-tcp', 'sudo godwit bench --rounds 5 --out /tmp/bench'],
    without: ['state'],
    options: [
      new Option('--list', 'list the benchmarks, one per line'),
      new Option('--out <dir>', 'where results and plots go'),
      new Option('--rounds <number>', 'rounds per subject').argParser(integer),
      new Option('--seconds <number>', 'seconds per sample').argParser(positive),
      seed,
    ],
    run: async (names, options) => (await import('./commands/bench.ts')).bench(names, options),
  })
}

function defineHelpers(program: Command): void {
  define(program, {
    use: 'keygen',
    summary: "print a private key, in WireGuard's base64",
    examples: ['(umask 077; godwit keygen > private.key)'],
    without: ['state'],
    run: async (options) => (await import('./commands/keys.ts')).keygen(options),
  })
  define(program, {
    use: 'pubkey',
    summary: 'read a private key on standard input, print its public key',
    examples: ['godwit pubkey < private.key'],
    without: ['state'],
    run: async (options) => (await import('./commands/keys.ts')).pubkey(options),
  })
  const config = group(program, 'config', 'check the configuration')
  define(config, {
    use: 'check [file]',
    summary: 'check a configuration: prints file, line and reason of each error',
    examples: ['godwit config check', 'godwit config check ./godwit.toml'],
    run: async (file, options) => (await import('./commands/config.ts')).check(file, options),
  })
  define(config, {
    use: 'schema',
    summary: 'print the JSON schema of the configuration, for editors',
    examples: ['godwit config schema > godwit.schema.json'],
    without: ['state', 'json'],
    run: async () => (await import('./commands/config.ts')).schema(),
  })
  define(program, {
    use: 'doctor',
    summary: 'show what this machine has and lacks for each part of godwit, and test the ways to its anchors',
    examples: ['godwit doctor', 'sudo godwit doctor'],
    run: async (options) => (await import('./commands/doctor.ts')).doctor(options),
  })
  define(program, {
    use: 'completion <shell> [words...]',
    summary: 'print completions for bash, zsh or fish',
    examples: [
      'godwit completion bash | sudo tee /etc/bash_completion.d/godwit',
      'godwit completion zsh | sudo tee /usr/local/share/zsh/site-functions/_godwit',
      'godwit completion fish > ~/.config/fish/completions/godwit.fish',
    ],
    details: 'The scripts call `godwit completion words -- WORDS…` for the possible next words.',
    without: ['state', 'json'],
    run: async (shell, words) => (await import('./commands/completion.ts')).completion(shell, words, program),
  })
}
