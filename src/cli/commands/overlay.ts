/** `overlay …`: a node of an overlay. */
import { usageError } from '../../core/errors.ts'
import { ControlClient } from '../../host/control/client.ts'
import { cleanUp, serve } from '../../host/daemon/serve.ts'
import {
  conversation,
  type LoginOptions,
  loginNode,
  MAX_MESSAGE,
  type OverlayView,
  type TraceStep,
} from '../../host/provisioning/overlay.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, table } from '../output.ts'

function client(options: CommonOptions): ControlClient {
  return new ControlClient(new State(options).socket)
}

export async function login(account: string, options: CommonOptions & LoginOptions): Promise<void> {
  const state = new State(options)
  const done = await loginNode(state, account, await password(), options)
  if (options.json) {
    printJson({ name: done.name, config: done.config })
    return
  }
  const flag = options.state === undefined ? '' : ` --state ${options.state}`
  const next = done.busy
    ? `restart \`godwit overlay up${flag}\` to use it`
    : `next: sudo godwit overlay up${flag}`
  printLines([`this machine is ${done.name}`, next])
}

/** One line of standard input; what is typed is not shown. */
async function password(): Promise<string> {
  const { stdin, stderr } = process
  if (stdin.isTTY) {
    stderr.write('password: ')
    stdin.setRawMode(true)
  }
  try {
    let text = ''
    for await (const part of stdin) {
      for (const character of String(part)) {
        if (character === '\n' || character === '\r') return text
        if (character === '\u0003') throw usageError('no password was given')
        text = character === '\u007f' ? text.slice(0, -1) : text + character
      }
    }
    if (text === '') throw usageError('there is no password on standard input')
    return text
  } finally {
    if (stdin.isTTY) {
      stdin.setRawMode(false)
      stderr.write('\n')
    }
  }
}

export function up(options: CommonOptions): Promise<void> {
  return serve('overlay', new State(options))
}

export async function down(options: CommonOptions): Promise<void> {
  await cleanUp(new State(options), 'overlay')
  if (options.json) printJson({ clean: true })
  else printLines(['removed everything of godwit overlay from the kernel'])
}

interface Resolved {
  readonly name: string
  readonly addresses: readonly string[]
  readonly way: string | null
  readonly access: string | null
}

export async function resolve(name: string, options: CommonOptions): Promise<void> {
  const answer = await client(options).post<Resolved>('/v1/overlay/resolve', { name })
  if (options.json) {
    printJson(answer)
    return
  }
  const way = answer.way === null ? 'no path has answered yet' : `${answer.way} over ${answer.access}`
  printLines([`${answer.name}  ${answer.addresses.join('  ')}  (${way})`])
}

export async function peers(options: CommonOptions & { readonly keys?: boolean }): Promise<void> {
  const view = await client(options).get<OverlayView>('/v1/overlay')
  if (options.json) {
    printJson(view)
    return
  }
  if (options.keys === true) {
    const rows = view.peers.map(({ name, public_key }) => [name, public_key ?? 'not used since the start'])
    printLines([
      ...table(['DEVICE', 'KEY'], [[`${view.name} (this one)`, view.public_key], ...rows]),
      'each device shows the same key for a name, or somebody is between them',
    ])
    return
  }
  const state = view.registered ? 'registered' : `not registered: ${view.trouble ?? 'no answer yet'}`
  const rows = view.peers.map((peer) => [
    peer.name,
    peer.addresses.join(' '),
    peer.way ?? '-',
    peer.access ?? '-',
    peer.reason,
  ])
  printLines([
    `${view.name}  ${view.addresses.join('  ')}  at ${view.coordinator}, ${state}`,
    '',
    ...(rows.length === 0
      ? ['no peers yet']
      : table(['PEER', 'VIRTUAL ADDRESSES', 'WAY', 'ACCESS', 'WHY'], rows)),
  ])
}

export async function trace(options: CommonOptions): Promise<void> {
  const { steps } = await client(options).get<{ steps: TraceStep[] }>('/v1/overlay/trace')
  if (options.json) printJson({ steps })
  else printLines(steps.length === 0 ? ['no signalling yet'] : conversation(steps))
}

export async function notify(options: CommonOptions): Promise<void> {
  const parts: Buffer[] = []
  let length = 0
  for await (const part of process.stdin) {
    length += (part as Buffer).length
    if (length > MAX_MESSAGE) throw usageError(`the message has more than ${MAX_MESSAGE} bytes`)
    parts.push(part as Buffer)
  }
  if (length === 0)
    throw usageError('there is no message on standard input', { hint: 'godwit overlay notify < message' })
  const message = Buffer.concat(parts).toString('base64')
  const answer = await client(options).post<{ notified: boolean }>('/v1/overlay/notification', { message })
  if (options.json) printJson(answer)
  else printLines(['the node shows the coordinator where it is'])
}

export async function forget(name: string, options: CommonOptions): Promise<void> {
  const answer = await client(options).post<{ forgotten: string }>('/v1/overlay/forget', { name })
  if (options.json) printJson(answer)
  else printLines([`${answer.forgotten} is forgotten until it is needed again`])
}
