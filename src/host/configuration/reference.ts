/** docs/configuration.md, made from the schema. */
import { MECHANISMS } from '../mechanisms.ts'
import type { MechanismList } from './plan.ts'
import { jsonSchema } from './schema.ts'

interface Node {
  readonly description?: string
  readonly type?: string
  readonly properties?: Record<string, Node>
  readonly required?: readonly string[]
  readonly items?: Node
  readonly additionalProperties?: Node | boolean
  readonly enum?: readonly string[]
  readonly const?: string
  readonly anyOf?: readonly Node[]
  readonly default?: unknown
  readonly minimum?: number
  readonly maximum?: number
}

/** The text of docs/configuration.md. */
export function configurationReference(list: MechanismList = MECHANISMS): string {
  const root = jsonSchema(list) as Node
  const sections = Object.entries(root.properties ?? {}).flatMap(([name, node]) => section(name, node))
  const rows = list.map(({ role, sections: own, summary, needs }) => {
    const keys = Object.keys(own).map((key) => `\`${key}\``)
    const required = needs.filter((each) => each.required).map(({ name }) => name)
    return `| ${role} | ${keys.join(', ')} | ${summary} | ${required.join(', ')} |`
  })
  return `${HEAD}\n${MECHANISM_HEAD}\n${rows.join('\n')}\n\n${sections.join('\n')}\n`
}

const HEAD = `# Configuration

One TOML file describes one instance: \`godwit.toml\` in the folder that \`--state DIR\` names, or /etc/godwit/godwit.toml.
\`godwit join\`, \`godwit anchor init\` and \`godwit router init\` write it. \`godwit config check\` reports file, line and reason of
each error. The daemon reads it when it starts; \`godwit reload\` applies a part of it later. \`config.schema.json\` is a JSON schema
for editors. This page is generated from the schema (\`npm run docs\`).

A laptop with two accesses: mobile data is a backup for everything but calls, which prefer it. (An access that a policy
names in \`prefer\` is no backup for that policy.)

\`\`\`toml
[access."wwan*"]
use = "backup"

[[policy]]
name = "calls"
match = ["app:linphone", "proto:udp+port:3478"]
prefer = ["wwan*", "wlan*"]

[[peer]]
name = "anchor"
endpoint = "anchor.example.org:51820"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
\`\`\`

Selectors (\`match\`, \`except\`) are those of \`godwit move\`: \`app:NAME\`, \`port:N\` or \`port:N-M\`, \`user:NAME\`,
\`to:ADDRESS/LENGTH\`, \`cgroup:PATH\`, \`proto:NAME\`; joined by \`+\`, all must match.
`

const MECHANISM_HEAD = `## Mechanisms

Each section belongs to one mechanism, or is shared by all: \`log\`, \`kernel\`, \`interface\` and \`access\`.

| mechanism | sections | what it does | needs |
| --- | --- | --- | --- |`

function section(name: string, node: Node): string[] {
  let title = `[${name}]`
  let table = node
  if (node.type === 'array' && node.items) {
    title = `[[${name}]]`
    table = node.items
  } else if (typeof node.additionalProperties === 'object') {
    title = `[${name}.INTERFACE]`
    table = node.additionalProperties
  }
  const rows = Object.entries(table.properties ?? {}).map(([key, value]) => {
    if (isTables(value)) return `| \`[[${name}.${key}]]\` | tables | | ${value.description ?? ''} |`
    const wanted =
      table.required?.includes(key) && value.default === undefined ? 'required' : showDefault(value)
    return `| \`${key}\` | ${showType(value)} | ${wanted} | ${value.description ?? ''} |`
  })
  const about = table.description ?? node.description ?? ''
  // Tables within: each has a section of its own.
  const inner = Object.entries(table.properties ?? {}).flatMap(([key, value]) =>
    isTables(value) ? section(`${name}.${key}`, value) : [],
  )
  return [
    `## ${title}`,
    '',
    about,
    '',
    '| key | type | default | |',
    '| --- | --- | --- | --- |',
    ...rows,
    '',
    ...inner,
  ]
}

function isTables({ type, items }: Node): boolean {
  return type === 'array' && items?.properties !== undefined
}

function showDefault(node: Node): string {
  return node.default === undefined ? '' : `\`${JSON.stringify(node.default)}\``
}

function showType(node: Node): string {
  if (node.anyOf) return node.anyOf.map(showType).join(' or ')
  if (node.const !== undefined) return `\`"${node.const}"\``
  if (node.enum) return node.enum.map((value) => `\`"${value}"\``).join(' or ')
  if (node.type === 'array') return `list of ${node.items?.type ?? 'values'}s`
  if (node.type !== 'integer' && node.type !== 'number') return node.type ?? ''
  const whole = node.type === 'integer' ? 'whole number' : 'number'
  const unbounded = node.maximum === undefined || node.maximum >= Number.MAX_SAFE_INTEGER
  return unbounded ? whole : `${whole}, ${node.minimum ?? 0} to ${node.maximum}`
}
