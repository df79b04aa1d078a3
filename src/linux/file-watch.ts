/** Changes of one file, by inotify: written, replaced, removed, made, whether it is a link or a mount of its own. */
import { existsSync, type FSWatcher, realpathSync, watch } from 'node:fs'
import { basename, dirname } from 'node:path'

/** Programs write in several steps; and a program that answers each of our changes does not keep us busy (ms). */
const SETTLE_MS = 50

/**
 * Calls `changed` soon after each change, until the returned function is called. Does not keep the process alive. Throws where the
 * kernel has no watch left (fs.inotify.max_user_watches).
 */
export function watchFile(path: string, changed: () => void): () => void {
  let watchers: FSWatcher[] = []
  let timer: NodeJS.Timeout | undefined
  const close = () => {
    for (const each of watchers) each.close()
    watchers = []
  }
  const soon = () => {
    timer ??= setTimeout(() => {
      timer = undefined
      try {
        open()
      } catch {
        // The folder is gone as well: what was watched is over.
      }
      changed()
    }, SETTLE_MS).unref()
  }
  const add = (where: string, isOurs: (name: string | null) => boolean) => {
    const watcher = watch(where, { persistent: false }, (_event, name) => {
      if (isOurs(name)) soon()
    })
    watcher.on('error', soon)
    watchers.push(watcher)
  }
  const open = () => {
    close()
    const real = existsSync(path) ? realpathSync(path) : path
    for (const each of new Set([path, real])) {
      add(dirname(each), (name) => name === null || name === basename(each))
      // A file that is mounted there is not seen through its folder.
      if (existsSync(each)) add(each, () => true)
    }
  }
  try {
    open()
  } catch (error) {
    close()
    throw error
  }
  return () => {
    clearTimeout(timer)
    close()
  }
}
