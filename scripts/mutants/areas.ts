/** What is broken on purpose, and the tests that should notice. Paths are relative to the repository. */
export interface Area {
  readonly name: string
  /** Files, or folders with all that they hold. */
  readonly code: readonly string[]
  /** Folders of test/unit and test/sim. */
  readonly tests: readonly string[]
  /** The share that has been reached, and must not fall again (with 60 tried, less what chance takes). */
  readonly least?: number
}

export const AREAS: readonly Area[] = [
  {
    name: 'tunnel/protocol',
    code: ['src/tunnel/protocol'],
    tests: ['tunnel', 'anchoring', 'routing'],
    least: 0.75,
  },
  {
    name: 'tunnel/scheduling',
    code: ['src/tunnel/scheduling'],
    tests: ['tunnel', 'routing'],
    least: 0.65,
  },
  {
    name: 'translation/machine',
    code: ['src/translation/machine'],
    tests: ['translation'],
    least: 0.7,
  },
  { name: 'anchoring/machine', code: ['src/anchoring/machine'], tests: ['anchoring'], least: 0.7 },
  {
    name: 'anchoring/tables',
    code: ['src/anchoring/tables', 'src/anchoring/forwarders'],
    tests: ['anchoring'],
    least: 0.7,
  },
  {
    name: 'routing/machine',
    code: ['src/routing/machine.ts', 'src/routing/forwarder.ts'],
    tests: ['routing'],
    least: 0.7,
  },
  {
    name: 'access',
    code: ['machine', 'policy', 'metered'].map((name) => `src/access/${name}.ts`),
    tests: ['access', 'anchoring'],
    least: 0.75,
  },
  { name: 'mptcp/machine', code: ['src/mptcp/machine'], tests: ['mptcp'], least: 0.7 },
  {
    name: 'mptcp/tables',
    code: ['wire', 'tables', 'remembered'].map((name) => `src/mptcp/${name}.ts`),
    tests: ['mptcp'],
  },
  { name: 'overlay/machine', code: ['src/overlay/machine'], tests: ['overlay'], least: 0.7 },
  {
    name: 'codecs',
    code: [
      ...[
        'checksum',
        'codec',
        'ecn',
        'fragments',
        'icmp',
        'ip',
        'ipv4',
        'ipv6',
        'tcp',
        'transport',
        'udp',
      ].map((name) => `src/core/${name}.ts`),
      'src/tunnel/protocol/control.ts',
      'src/tunnel/protocol/wire.ts',
      'src/anchoring/wire.ts',
      'src/routing/wire.ts',
      'src/translation/wire.ts',
      'src/overlay/wire',
    ],
    tests: ['core', 'tunnel', 'anchoring', 'routing', 'translation', 'mptcp', 'overlay'],
  },
]
