/** Without root: user namespaces, in which a user is root over network namespaces of its own (`unshare -Urnm`). */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { findProgram, installHint } from './packages.ts'

const UNSHARE = ['--user', '--map-root-user', '--net', '--mount']

/** Why user namespaces with networks are unavailable; undefined when they are available. Tries one. */
export function userNamespaceObstacle(): { readonly reason: string; readonly hint: string } | undefined {
  const unshare = findProgram('unshare')
  if (unshare === undefined) return { reason: 'unshare is not installed', hint: installHint(['unshare']) }
  const { status } = spawnSync(unshare, [...UNSHARE, 'true'], { stdio: 'ignore' })
  if (status === 0) return undefined
  if (setting('/proc/sys/kernel/unprivileged_userns_clone') === '0')
    return {
      reason: 'this kernel allows user namespaces only to root',
      hint: 'run with sudo, or: sudo sysctl kernel.unprivileged_userns_clone=1',
    }
  if (setting('/proc/sys/kernel/apparmor_restrict_unprivileged_userns') === '1')
    return {
      reason: 'AppArmor denies user namespaces to programs without a profile (Ubuntu 23.10 and later)',
      hint: 'run with sudo, or: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0',
    }
  return { reason: 'user namespaces are not permitted here', hint: 'run with sudo' }
}

function setting(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return undefined
  }
}
