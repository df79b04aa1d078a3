/** `overlay send`, `overlay inbox`: files for nodes that are asleep. */
import {
  fetchAll,
  type Inbox,
  inboxOf,
  type SendOptions,
  sendTo,
} from '../../host/provisioning/overlay-cache.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, table } from '../output.ts'

export async function send(
  file: string,
  names: readonly string[],
  options: CommonOptions & SendOptions,
): Promise<void> {
  const isShown = process.stderr.isTTY && !options.json
  const sent = await sendTo(new State(options), file, names, options, (done, all) => {
    if (isShown) process.stderr.write(`\r${Math.floor((100 * done) / all)} %${done === all ? '\n' : ''}`)
  })
  if (options.json) printJson(sent)
  else {
    const from = sent.resumed > 0 ? `, ${sent.resumed} bytes of them by an earlier attempt` : ''
    printLines([`${sent.bytes} bytes wait for ${sent.recipients.join(', ')}${from}`])
  }
}

export async function inbox(options: CommonOptions & { readonly out?: string }): Promise<void> {
  const state = new State(options)
  if (options.out === undefined) {
    const { objects, unreached } = await inboxOf(state)
    sayUnreached(unreached)
    if (options.json) printJson({ objects, unreached })
    else if (objects.length === 0) printLines(['nothing waits for this node'])
    else {
      const rows = objects.map((each) => [each.from, String(each.bytes), each.sent, each.expires])
      printLines([
        ...table(['FROM', 'BYTES', 'SENT', 'EXPIRES'], rows),
        'to fetch it: sudo godwit overlay inbox --out FOLDER',
      ])
    }
    return
  }
  const { received, failed, unreached } = await fetchAll(state, options.out)
  sayUnreached(unreached)
  if (options.json) printJson({ received, failed, unreached })
  else if (received.length + failed.length === 0) printLines(['nothing waits for this node'])
  else {
    printLines([
      ...received.map(({ path, from }) => `${path}  from ${from}`),
      ...failed.map(({ from, reason }) => `not fetched, from ${from}: ${reason}`),
    ])
  }
  if (failed.length + unreached.length > 0) process.exitCode = 1
}

/** Of several cache servers, each keeps files of its own. */
function sayUnreached(unreached: Inbox['unreached']): void {
  for (const { reason } of unreached)
    process.stderr.write(`${reason}; what waits there can be fetched when it answers again\n`)
}
