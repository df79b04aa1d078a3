/** `join`. */
import { createInterface } from 'node:readline'
import { usageError } from '../../core/errors.ts'
import { join as joinAnchor, joinWireguard } from '../../host/provisioning/anchoring.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export async function join(
  invitation: string | undefined,
  options: CommonOptions & { readonly wg?: string },
): Promise<void> {
  const state = new State(options)
  if ((invitation === undefined) === (options.wg === undefined)) {
    throw usageError('give an invitation or --wg FILE', {
      hint: '`godwit anchor invite NAME`, on the anchor, prints one; `godwit join -` reads it from standard input',
    })
  }
  const joined =
    options.wg !== undefined
      ? joinWireguard(state, options.wg)
      : joinAnchor(state, invitation === '-' ? await firstLine() : invitation!, Date.now())
  if (options.json) {
    printJson(joined)
    return
  }
  const flag = options.state === undefined ? '' : ` --state ${options.state}`
  printLines([
    `joined ${joined.peer} as ${joined.addresses.join(', ')}; wrote ${joined.config}`,
    `next: sudo godwit up${flag}`,
  ])
}

/** What is pasted or piped in, up to the first line break. */
async function firstLine(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write('paste the invitation and press Enter: ')
  for await (const line of createInterface({ input: process.stdin, terminal: false })) {
    if (line.trim() !== '') return line
  }
  throw usageError('standard input holds no invitation')
}
