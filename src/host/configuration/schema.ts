/**
 * The schema of godwit.toml. The shared sections are here; each mechanism brings its own (mechanisms.ts). Checks,
 * docs/configuration.md and docs/config.schema.json are all made from it.
 */
import * as z from 'zod'
import { DEFAULT_BASE, SPAN } from '../../linux/ledger.ts'
import type { MechanismDescriptor } from '../../mechanism/descriptor.ts'
import { accessPattern, type Issue, name, parseBytes, text } from '../../mechanism/schema.ts'
import { MECHANISMS } from '../mechanisms.ts'

const log = z
  .strictObject({
    level: z
      .enum(['error', 'warn', 'info', 'debug'])
      .default('info')
      .describe('Least important level that is shown.'),
  })
  .describe('The log, on standard error.')

const kernel = z
  .strictObject({
    instance: name(
      'Part of the names of kernel objects (tables, cgroups), so that several instances can run side by side.',
    ).default('main'),
    base: z
      .int()
      .min(100)
      .max(30000)
      .default(DEFAULT_BASE)
      .describe(`First routing table and rule priority; the next ${SPAN} are used too.`),
  })
  .describe(
    'How kernel state is named and numbered. Only needed when two instances share a network namespace.',
  )

const iface = z
  .strictObject({
    name: z
      .string()
      .regex(/^[^\s/*]{1,15}$/, 'at most 15 characters')
      .optional()
      .describe(
        'Name of the virtual interface. Default: godwit0 on a host, gwan0 on an anchor, gwrt0 on a router.',
      ),
    private_key_file: z
      .string()
      .min(1)
      .optional()
      .describe(
        'File with the private key in base64, mode 0600. Default: private.key in the state directory. Relative to the folder of this file.',
      ),
    mtu: z
      .int()
      .min(1280)
      .max(65535)
      .optional()
      .describe('MTU of the virtual interface, in bytes. Default: what its paths carry.'),
  })
  .describe('The virtual interface and the key of this machine.')

const access = z
  .strictObject({
    use: z
      .enum(['normal', 'backup', 'never'])
      .default('normal')
      .describe(
        '`backup`: used only when no other access is up, except for policies that name it in `prefer`. `never`: no mechanism uses it.',
      ),
    cost: z
      .number()
      .min(0)
      .default(0)
      .describe('Between otherwise equal accesses, the one with the lower cost is used.'),
    weight: z
      .int()
      .min(1)
      .max(15)
      .default(1)
      .describe('Router only: relative share of the packets of `round-robin`.'),
    cap: text(
      parseBytes,
      'Router only: max bytes per month in both directions, by the counters of the interface, e.g. `20GB`. Beyond this it becomes a backup.',
    ).optional(),
    cap_day: z.int().min(1).max(28).default(1).describe('Day on which the month of `cap` begins.'),
    metered: z
      .boolean()
      .default(false)
      .describe('Router only: while it stands by, it is probed every `probe_s` seconds, as backups are.'),
    probe_s: z
      .int()
      .min(1)
      .max(3600)
      .default(10)
      .describe('Router only: seconds between probes of a metered or backup access that stands by.'),
  })
  .describe('How an access network may be used. The key is the interface, or a pattern such as "wwan*".')

const shared = {
  log: log.prefault({}),
  kernel: kernel.prefault({}),
  interface: iface.prefault({}),
  access: z.record(accessPattern, access).default({}),
}

type List = readonly MechanismDescriptor[]
type Union = (typeof MECHANISMS)[number]['sections']
type All<T> = (T extends unknown ? (value: T) => void : never) extends (value: infer S) => void ? S : never
/** The sections of every mechanism in the list. */
type Sections = All<Union>

const schemas = new Map<List, ReturnType<typeof build>>()

/** The schema of a configuration with these mechanisms. */
export function configSchema(list: List = MECHANISMS): ReturnType<typeof build> {
  let schema = schemas.get(list)
  if (schema === undefined) {
    schema = build(list)
    schemas.set(list, schema)
  }
  return schema
}

function build(list: List) {
  const sections = Object.assign({}, ...list.map((each) => each.sections)) as Sections
  return z
    .strictObject({ ...shared, ...sections })
    .superRefine((value, context) => {
      const issue: Issue = (path, message) => context.addIssue({ code: 'custom', path: [...path], message })
      for (const { check } of list) check?.(value, issue)
      const [first, ...others] = list.filter((each) => each.claims(value) === true)
      for (const { role, sections: own } of others)
        issue(
          Object.keys(own).slice(0, 1),
          `this file already configures an ${first!.role}; give the ${role} its own state folder (--state DIR)`,
        )
    })
    .meta({ title: 'godwit.toml' })
}

/** A configuration that has been checked, with defaults filled in. */
export type Config = z.output<ReturnType<typeof build>>

/** The JSON schema that editors use (docs/config.schema.json). */
export function jsonSchema(list: List = MECHANISMS): object {
  return z.toJSONSchema(configSchema(list), { io: 'input', target: 'draft-2020-12' })
}
