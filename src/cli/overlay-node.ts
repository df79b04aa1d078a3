/** `godwit overlay login`, `up`, `resolve`, `peers` …: definitions of the node's commands. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { define, group } from './definition.ts'

function daysOf(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > 30)
    throw new InvalidArgumentError('must be 1 to 30 days.')
  return value
}

/** Makes the group; the servers' commands are added to it. */
export function defineOverlay(program: Command): void {
  const overlay = group(
    program,
    'overlay',
    'an overlay: nodes reached by name behind any NAT, and its servers',
  )
  define(overlay, {
    use: 'login <account>',
    summary: 'log in at an account server; the password is read from the terminal or standard input',
    examples: [
      'sudo godwit overlay login carol --server https://overlay.example.org:6741 --pin PIN --name laptop',
      'sudo godwit overlay login carol',
    ],
    details: 'A node that logs in again keeps its private key, name and addresses, and needs no --server.',
    options: [
      new Option('--server <url>', 'the account server'),
      new Option('--pin <sha256>', 'SHA-256 of its certificate (base64), if no known authority signed it'),
      new Option('--name <label>', 'name of this node; default: the name of this machine'),
      new Option('--replace', 'take the name from another device of the account, whose login ends'),
    ],
    run: async (account, options) => (await import('./commands/overlay.ts')).login(account, options),
  })
  define(overlay, {
    use: 'up',
    summary: 'run a node in the foreground; prints `ready` once the coordinator knows its location',
    examples: ['sudo godwit overlay up'],
    without: ['json'],
    run: async (options) => (await import('./commands/overlay.ts')).up(options),
  })
  define(overlay, {
    use: 'down',
    summary: 'remove what a killed node left: interface, routes, rules, its line in resolv.conf',
    examples: ['sudo godwit overlay down'],
    run: async (options) => (await import('./commands/overlay.ts')).down(options),
  })
  define(overlay, {
    use: 'resolve <name>',
    summary: 'set up the tunnel to a node; prints its virtual addresses and the way to it',
    examples: ['godwit overlay resolve laptop', 'godwit overlay resolve laptop.home.example.org --json'],
    run: async (name, options) => (await import('./commands/overlay.ts')).resolve(name, options),
  })
  define(overlay, {
    use: 'peers',
    summary: 'show this node and its peers: addresses, way, access, and the reason',
    examples: ['godwit overlay peers', 'godwit overlay peers --keys'],
    details:
      'Keys are for people to compare: read one to its owner over the telephone. The tunnel is encrypted for who has that key, whatever the\nservers of the zone say.',
    options: [new Option('--keys', 'show the public keys of this node and its peers')],
    run: async (options) => (await import('./commands/overlay.ts')).peers(options),
  })
  define(overlay, {
    use: 'trace',
    summary: 'print the signalling of this node as a sequence diagram',
    examples: ['godwit overlay trace', 'godwit overlay trace --json'],
    run: async (options) => (await import('./commands/overlay.ts')).trace(options),
  })
  define(overlay, {
    use: 'send <file> <names...>',
    summary: 'leave a file for nodes that may be asleep; only they can read it',
    examples: [
      'sudo godwit overlay send photos.tar laptop phone',
      'sudo godwit overlay send report.pdf bob.home.example.org --days 2',
    ],
    details:
      'A cache server of the zone keeps it until they fetch it (`overlay inbox --out`) or it expires. If it is interrupted, the same\ncommand goes on where it was.',
    options: [
      new Option('--days <n>', 'how long it waits to be fetched, 1 to 30').default(7).argParser(daysOf),
    ],
    run: async (file, names, options) =>
      (await import('./commands/overlay-cache.ts')).send(file, names, options),
  })
  define(overlay, {
    use: 'inbox',
    summary: 'list what other nodes have left for this one, or fetch it',
    examples: ['sudo godwit overlay inbox', 'sudo godwit overlay inbox --out ~/Downloads'],
    details:
      'Each file is verified to be of its sender and whole before it gets its name; no file is replaced. What was fetched leaves the\nserver.',
    options: [new Option('--out <folder>', 'fetch all into this folder')],
    run: async (options) => (await import('./commands/overlay-cache.ts')).inbox(options),
  })
  define(overlay, {
    use: 'notify',
    summary: 'give the node a message of its push service, from standard input; it then shows where it is',
    examples: ['godwit overlay notify < message', 'godwit overlay notify --json < message'],
    details:
      'For what receives Web Push or UnifiedPush messages on this machine: the body of the message, as it came (aes128gcm). The\nendpoint is `push` in [overlay].',
    run: async (options) => (await import('./commands/overlay.ts')).notify(options),
  })
  define(overlay, {
    use: 'forget <name>',
    summary: 'forget a peer and its tunnel until it is needed again',
    examples: ['godwit overlay forget laptop'],
    run: async (name, options) => (await import('./commands/overlay.ts')).forget(name, options),
  })
}
