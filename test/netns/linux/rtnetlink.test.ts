import { createNamespace, deleteNamespace } from '../../../src/linux/netns.ts'
import { Rtnetlink } from '../../../src/linux/rtnetlink/index.ts'
import { rtnlCompliance } from '../../suites/rtnl.ts'

rtnlCompliance('the kernel', () => {
  const names = [`rtnl-a-${process.pid}`, `rtnl-b-${process.pid}`] as const
  for (const name of names) createNamespace(name)
  const first = new Rtnetlink(names[0])
  const second = new Rtnetlink(names[1])
  const end = () => {
    first.close()
    second.close()
    for (const name of names) deleteNamespace(name)
  }
  return { first, second, secondName: names[1], end }
})
