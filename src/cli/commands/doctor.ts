/** `doctor`. */
import { examine } from '../../host/daemon/doctor.ts'
import type { CommonOptions } from '../definition.ts'
import { EXIT } from '../errors.ts'
import { printJson, printLines, table } from '../output.ts'

export async function doctor(options: CommonOptions): Promise<void> {
  const findings = examine()
  const lacking = findings.filter(({ ok, required }) => required && !ok)
  if (options.json) printJson({ ok: lacking.length === 0, findings })
  else {
    const rows = findings.map((finding) => {
      const mark = finding.ok ? 'ok' : finding.required ? 'LACKS' : 'without'
      return [mark, finding.name, finding.value, finding.parts.join(', ')]
    })
    const mends = findings.filter(({ ok }) => !ok).map(({ name, mend }) => `${name}: ${mend}`)
    printLines([
      ...table(['', 'WHAT', 'FOUND', 'NEEDED BY'], rows),
      ...(mends.length > 0 ? ['', 'to mend:', ...mends] : []),
    ])
  }
  if (lacking.length > 0) process.exitCode = EXIT.missing
}
