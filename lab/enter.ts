/** The rights that the lab needs: root's, or those of a user namespace made for it; and the programs it runs. */
import { spawn } from 'node:child_process'
import { missingError } from '../src/core/errors.ts'
import { usePrivateNames } from '../src/linux/netns.ts'
import { ensurePackages, type Program } from '../src/linux/packages.ts'
import { userNamespaceObstacle } from '../src/linux/userns.ts'
import { TUN } from '../src/mechanism/needs.ts'

/** Set in the command that runs again inside its user namespace: the user's id outside. */
export const INSIDE = 'GODWIT_LAB_INSIDE'
/** A user's wish: namespaces under names that nothing else sees, so that several labs can run side by side. */
const PRIVATE = 'GODWIT_LAB_PRIVATE'

/**
 * Call it first. Installs the programs that are missing, those of a scenario too, saying so. As root: undefined, go on here. Otherwise the same
 * command runs again in a user namespace of its own; resolves with its exit status once it has ended. Rejects with kind
 * `missing` where the machine lacks a program or /dev/net/tun, or the kernel does not allow user namespaces.
 */
export async function enterLab(
  what: 'topology' | 'scenario' = 'scenario',
  programs: readonly Program[] = [],
): Promise<number | undefined> {
  if (process.env[INSIDE] !== undefined) {
    usePrivateNames()
    return undefined
  }
  ensurePackages(what === 'topology' ? ['nft'] : ['nft', 'curl', 'rsync', ...programs], {
    say: (line) => process.stderr.write(`godwit: ${line}\n`),
  })
  const tun = TUN.look()
  if (!tun.ok) throw missingError(`/dev/net/tun: ${tun.value}`, tun.mend ?? TUN.mend)
  if (process.getuid?.() === 0) {
    if (process.env[PRIVATE] !== undefined) usePrivateNames()
    return undefined
  }
  const obstacle = userNamespaceObstacle()
  if (obstacle !== undefined)
    throw missingError(`the lab needs root or a user namespace: ${obstacle.reason}`, obstacle.hint)
  return again()
}

/** Runs this command again, as root of a new user namespace. */
function again(): Promise<number> {
  const command = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const child = spawn('unshare', ['-Urnm', ...command], {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: String(process.getuid?.()) },
  })
  // A terminal's Ctrl-C reaches the child by itself; what is sent to this process alone is passed on.
  const pass = (signal: NodeJS.Signals) => child.kill(signal)
  process.on('SIGTERM', pass)
  process.on('SIGHUP', pass)
  process.on('SIGINT', () => {})
  return new Promise((resolve) => {
    child.once('error', () => resolve(1))
    child.once('exit', (code, signal) => resolve(code ?? 128 + (signal === 'SIGINT' ? 2 : 15)))
  })
}
