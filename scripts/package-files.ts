/** `files` of package.json: what the package contains. Those in `dist` that end in `.js` are the entries of the bundle. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Files and folders below `root`, whose `dist` may still be made elsewhere; a pattern `FOLDER/**` + `/*END`, as npm reads it, becomes the files below the folder with that end. */
export function packageFiles(root: string, dist = join(root, 'dist')): string[] {
  const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    readonly files: readonly string[]
  }
  return files.flatMap((name) => {
    const [folder, end] = name.split('/**/*')
    if (end === undefined) return name
    return readdirSync(join(dist, folder!.slice('dist'.length)), { recursive: true, encoding: 'utf8' })
      .filter((each) => each.endsWith(end))
      .map((each) => `${folder}/${each}`)
      .sort()
  })
}

/** Without `dist/` and `.js`. */
export function entriesOf(files: readonly string[]): string[] {
  return files.flatMap((name) => /^dist\/(.*)\.js$/.exec(name)?.[1] ?? [])
}
