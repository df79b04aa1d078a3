/** `godwit overlay init`, `serve`, `account …` and `allow`: definitions of the servers' commands. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { define, group } from './definition.ts'

function portOrNone(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0 || value > 65_535)
    throw new InvalidArgumentError('must be a port, or 0.')
  return value
}

function days(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0 || value > 3650)
    throw new InvalidArgumentError('must be 0 to 3650 days.')
  return value
}

function replicas(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > 5) throw new InvalidArgumentError('must be 1 to 5.')
  return value
}

function collect(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text]
}

/** Adds them to the group of the node's commands, or makes it. */
export function defineOverlayServers(program: Command): void {
  const overlay =
    program.commands.find((command) => command.name() === 'overlay') ??
    group(program, 'overlay', 'an overlay: nodes reached by name behind any NAT, and its servers')
  define(overlay, {
    use: 'init',
    summary: "write the settings of a zone's servers, with fresh keys",
    examples: [
      'sudo godwit overlay init --zone home.example.org --endpoint overlay.example.org',
      'sudo godwit overlay init --zone lab.example --endpoint 203.0.113.10 --dns-port 0 --closed',
    ],
    details:
      'Nodes use UDP and TCP port 6741 of the endpoint, TCP ports 6742 (notifications) and 6743 (cache),\nand UDP ports 6742 to 6805 for the relay. Resolvers use port 53 once the parent zone delegates to this server.',
    options: [
      new Option('--zone <name>', 'zone of the names of nodes').makeOptionMandatory(),
      new Option('--endpoint <host[:port]>', 'where nodes reach this server').makeOptionMandatory(),
      new Option(
        '--address <address>',
        'an address of the server, IPv4 or IPv6; default: what the endpoint resolves to',
      ).argParser(collect),
      new Option('--ipv4 <block>', 'block of virtual IPv4 addresses, or `none` (default: 100.96.0.0/16)'),
      new Option('--dns-port <port>', 'port of the name server; 0: none (default: 53)').argParser(portOrNone),
      new Option(
        '--closed',
        'only nodes of the same account may connect, unless `overlay allow` permits more',
      ),
      new Option('--login-days <n>', 'days that a login lasts unless the node prolongs it; 0: for good')
        .default(90)
        .argParser(days),
      new Option(
        '--resolver <address>',
        'a name server that finds other zones; default: those of this machine',
      ).argParser(collect),
    ],
    run: async (options) => (await import('./commands/overlay-server.ts')).init(options),
  })
  define(overlay, {
    use: 'serve',
    summary: "run a zone's servers in the foreground; prints `ready` once nodes can use them",
    examples: [
      'sudo godwit overlay serve',
      'sudo godwit overlay serve --roles dc,as',
      'sudo godwit overlay serve --settings relay1.json --state /var/lib/godwit-relay',
    ],
    details:
      'Roles: as, the account server; dc, the coordinator with its name server; ns, the notification server; rs, the relay; cs,\nthe cache server. dc runs where `overlay init` was run; each of the others runs there too, or where `overlay server add`\nhas given it settings of its own.',
    without: ['json'],
    options: [
      new Option(
        '--roles <list>',
        'roles of this process (default: all of its settings that do not run elsewhere)',
      ),
      new Option(
        '--settings <file>',
        'settings of `overlay server add`; they are kept in the state, as overlay-server.json',
      ),
    ],
    run: async (options) => (await import('./commands/overlay-server.ts')).serve(options),
  })
  const server = group(overlay, 'server', 'servers of a zone that run apart from its coordinator')
  define(server, {
    use: 'add <name>',
    summary: 'make key and settings for servers on another host or in another process',
    examples: [
      'sudo godwit overlay server add relay1 --roles rs --endpoint relay1.example.org',
      'sudo godwit overlay server add front --roles as,cs --endpoint login.example.org:443 --out /root/front.json',
    ],
    details:
      'There may be several relays: a pair of nodes gets the two that are near and not busy; and several cache servers, each with files of its own. Ports count from the endpoint: TCP 6741\nof as, 6742 of ns, 6743 of cs, UDP 6742 to 6805 of rs. Relays take effect at once.',
    options: [
      new Option('--roles <list>', 'of as, ns, rs, cs').makeOptionMandatory(),
      new Option('--endpoint <host[:port]>', 'where nodes reach it').makeOptionMandatory(),
      new Option(
        '--address <address>',
        'an address of it, IPv4 or IPv6; default: what the endpoint resolves to',
      ).argParser(collect),
      new Option('--out <file>', 'file for its settings (default: NAME.json here)'),
    ],
    run: async (name, options) => (await import('./commands/overlay-server.ts')).server(name, options),
  })
  define(server, {
    use: 'list',
    summary: 'list the servers that run apart',
    examples: ['sudo godwit overlay server list'],
    run: async (options) => (await import('./commands/overlay-server.ts')).servers(options),
  })
  define(server, {
    use: 'remove <name>',
    summary: 'end what a server apart may do',
    examples: ['sudo godwit overlay server remove relay1'],
    details: 'Takes effect at once. Pairs that used a relay are given another.',
    run: async (name, options) => (await import('./commands/overlay-server.ts')).unserve(name, options),
  })
  define(overlay, {
    use: 'allow <node> [names...]',
    summary: 'set who may connect to a node: names of nodes, or *.ZONE; no name: the default of the zone',
    examples: ['sudo godwit overlay allow nas laptop phone', 'sudo godwit overlay allow nas'],
    details: 'Nodes of the same account always may. Takes effect at once.',
    run: async (node, names, options) =>
      (await import('./commands/overlay-server.ts')).allow(node, names, options),
  })
  define(overlay, {
    use: 'push-services',
    summary: 'set and show the push services that wake nodes which are not connected',
    examples: [
      'sudo godwit overlay push-services',
      'sudo godwit overlay push-services --contact mailto:admin@example.org --allow-private 10.0.0.0/24',
      'sudo godwit overlay push-services --fcm service-account.json',
      'sudo godwit overlay push-services --apns-key AuthKey.p8 --apns-key-id ABC123DEFG --apns-team DEF123GHIJ --apns-topic org.example.app',
    ],
    details:
      'Web Push and UnifiedPush need no account. `key` is what a subscription names as application server key. Takes effect when\nthe servers start again.',
    options: [
      new Option('--contact <url>', 'mailto: or https: address that push services may write to'),
      new Option(
        '--allow-private <prefix>',
        'private network with a push service of yours; `none` removes all (default: public addresses only)',
      ).argParser(collect),
      new Option('--ca <file>', 'certificate of an authority for push services of yours, PEM'),
      new Option('--fcm <file>', 'service account of Firebase Cloud Messaging, JSON'),
      new Option('--apns-key <file>', 'key of the Apple Push Notification service, PEM'),
      new Option('--apns-key-id <id>', 'its identifier'),
      new Option('--apns-team <id>', 'identifier of the team'),
      new Option('--apns-topic <name>', 'bundle identifier of the application'),
    ],
    run: async (options) => (await import('./commands/overlay-server.ts')).pushServices(options),
  })
  define(overlay, {
    use: 'forget-zone <zone>',
    summary: 'take other keys of another zone than those that were seen first',
    examples: ['sudo godwit overlay forget-zone other.example.org'],
    details:
      'When its operator says that its servers were set up anew. Who holds the old keys is then another zone.',
    run: async (zone, options) => (await import('./commands/overlay-server.ts')).forget(zone, options),
  })
  const store = group(overlay, 'store', "where the servers' accounts, keys and leases are kept")
  define(store, {
    use: 'show',
    summary: 'show the database, and what of it could lose acknowledged changes',
    examples: ['sudo godwit overlay store show'],
    run: async (options) => (await import('./commands/overlay-store.ts')).show(options),
  })
  define(store, {
    use: 'move <url>',
    summary: 'move everything from SQLite into an empty database of PostgreSQL',
    examples: [
      'sudo godwit overlay store move postgres://godwit@db1.example.org,db2.example.org/godwit --password-file /etc/godwit/database-password',
      'sudo godwit overlay store move postgres://godwit@%2Fvar%2Frun%2Fpostgresql/godwit',
    ],
    details:
      'The servers must not run. Name the primary and its standbys: the one that takes writes is used. A folder in the place of a host\n(percent-encoded) holds the socket of a server on this machine. The role needs no rights but its own database.',
    options: [
      new Option('--password-file <file>', 'password of the role; only its owner may read the file'),
      new Option('--ca <file>', "certificate of the authority of the server's certificate, PEM"),
      new Option('--no-tls', 'without TLS, in a network of your own'),
      new Option('--commit <level>', 'what an acknowledged change has reached at the synchronous standby')
        .choices(['on', 'remote_apply'])
        .default('on'),
    ],
    run: async (url, options) => (await import('./commands/overlay-store.ts')).move(url, options),
  })
  const soft = group(overlay, 'soft', 'several coordinators of a zone, and NATS between them')
  define(soft, {
    use: 'show',
    summary: 'show the server of NATS and the coordinators that are there',
    examples: ['sudo godwit overlay soft show'],
    run: async (options) => (await import('./commands/overlay-soft.ts')).show(options),
  })
  define(soft, {
    use: 'use <url>',
    summary: 'make this coordinator one of several, from its next start on',
    examples: [
      'sudo godwit overlay soft use nats://godwit@nats1.example.org,nats2.example.org,nats3.example.org --name a --endpoint a.example.org --password-file /etc/godwit/nats-password',
      'sudo godwit overlay soft use nats://127.0.0.1 --no-tls --name b --endpoint 192.0.2.7',
    ],
    details:
      'The state is in PostgreSQL before (`overlay store move`), and all coordinators have the same keys: copy overlay-server.json,\n.crt and .key to each host. The endpoint is where devices reach this host alone; the zone’s own name has the addresses of all.',
    options: [
      new Option('--name <name>', 'what this coordinator is called in logs and lists').makeOptionMandatory(),
      new Option('--endpoint <host>', 'where devices reach this host').makeOptionMandatory(),
      new Option(
        '--address <address>',
        'an address of it, IPv4 or IPv6; default: what the endpoint resolves to',
      ).argParser(collect),
      new Option('--password-file <file>', 'password of the user; only its owner may read the file'),
      new Option('--ca <file>', "certificate of the authority of the server's certificate, PEM"),
      new Option('--no-tls', 'without TLS, in a network of your own'),
      new Option(
        '--replicas <n>',
        'servers of NATS that keep each entry (default: 3 where three are named, else 1)',
      ).argParser(replicas),
    ],
    run: async (url, options) => (await import('./commands/overlay-soft.ts')).use(url, options),
  })
  define(soft, {
    use: 'leave',
    summary: 'make this coordinator the only one again, from its next start on',
    examples: ['sudo godwit overlay soft leave'],
    details: 'Stop the others first: ten seconds after their last sign this one can start.',
    run: async (options) => (await import('./commands/overlay-soft.ts')).leave(options),
  })
  const account = group(overlay, 'account', 'the accounts of a zone')
  define(account, {
    use: 'add <name>',
    summary: 'add an account and print how its nodes log in',
    examples: ['sudo godwit overlay account add carol', 'sudo godwit overlay account add carol --replace'],
    options: [
      new Option('--password-stdin', 'read the password from standard input; default: generate one'),
      new Option('--replace', 'give an existing account a new password'),
    ],
    run: async (name, options) => (await import('./commands/overlay-server.ts')).account(name, options),
  })
  define(account, {
    use: 'list',
    summary: 'list accounts and their nodes',
    examples: ['sudo godwit overlay account list'],
    run: async (options) => (await import('./commands/overlay-server.ts')).accounts(options),
  })
  define(account, {
    use: 'nodes [name]',
    summary: 'list the nodes of all accounts, or of one, and when their logins end',
    examples: ['sudo godwit overlay account nodes', 'sudo godwit overlay account nodes carol --json'],
    run: async (name, options) => (await import('./commands/overlay-server.ts')).nodes(name, options),
  })
  define(account, {
    use: 'revoke <node>',
    summary: 'end the login of a node that was lost or stolen; its name and addresses stay its own',
    examples: ['sudo godwit overlay account revoke laptop'],
    details:
      'Takes effect at the next message of the node. It can log in again only with the password of its account: change that too\nif it was on the node (`account add NAME --replace`). Tunnels that stand end when one of both moves.',
    run: async (node, options) => (await import('./commands/overlay-server.ts')).revoke(node, options),
  })
  define(account, {
    use: 'distribute',
    summary: 'tell a coordinator elsewhere all nodes anew, after an older copy of its database was restored',
    examples: ['sudo godwit overlay account distribute'],
    run: async (options) => (await import('./commands/overlay-server.ts')).distribute(options),
  })
  define(account, {
    use: 'remove <name>',
    summary: 'remove an account and its nodes',
    examples: ['sudo godwit overlay account remove carol'],
    run: async (name, options) => (await import('./commands/overlay-server.ts')).remove(name, options),
  })
}
