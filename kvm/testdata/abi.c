/*
 * Prints the KVM interface of this machine's <linux/kvm.h> as kvm_abi.tsv.
 * Regenerate (make abi):
 *   cc -o /tmp/abi kvm/testdata/abi.c && /tmp/abi > kvm/testdata/kvm_abi.tsv
 */
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>

#define I(n) printf("ioctl\t%s\t%#lx\n", #n, (unsigned long)n)
#define N(k, n) printf(k "\t%s\t%#lx\n", #n, (unsigned long)n)
#define S(s) printf("sizeof\t%s\t%#zx\n", #s, sizeof(struct s))
#define F(s, f) printf("offset\t%s.%s\t%#zx\n", #s, #f, offsetof(struct s, f))

int main(void)
{
	I(KVM_GET_API_VERSION); I(KVM_CREATE_VM); I(KVM_GET_MSR_INDEX_LIST); I(KVM_CHECK_EXTENSION);
	I(KVM_GET_VCPU_MMAP_SIZE); I(KVM_GET_SUPPORTED_CPUID); I(KVM_CREATE_VCPU); I(KVM_SET_USER_MEMORY_REGION);
	I(KVM_SET_TSS_ADDR); I(KVM_SET_IDENTITY_MAP_ADDR); I(KVM_CREATE_IRQCHIP); I(KVM_IRQ_LINE);
	I(KVM_GET_IRQCHIP); I(KVM_SET_IRQCHIP); I(KVM_IRQFD); I(KVM_IOEVENTFD); I(KVM_SET_CLOCK); I(KVM_GET_CLOCK);
	I(KVM_RUN); I(KVM_GET_REGS); I(KVM_SET_REGS); I(KVM_GET_SREGS); I(KVM_SET_SREGS); I(KVM_GET_MSRS);
	I(KVM_SET_MSRS); I(KVM_GET_FPU); I(KVM_SET_FPU); I(KVM_GET_LAPIC); I(KVM_SET_LAPIC); I(KVM_SET_CPUID2);
	I(KVM_GET_CPUID2); I(KVM_GET_MP_STATE); I(KVM_SET_MP_STATE); I(KVM_GET_VCPU_EVENTS); I(KVM_SET_VCPU_EVENTS);
	I(KVM_GET_DEBUGREGS); I(KVM_SET_DEBUGREGS); I(KVM_SET_TSC_KHZ); I(KVM_GET_TSC_KHZ); I(KVM_GET_XSAVE);
	I(KVM_SET_XSAVE); I(KVM_GET_XCRS); I(KVM_SET_XCRS); I(KVM_KVMCLOCK_CTRL); I(KVM_GET_XSAVE2);

	N("cap", KVM_CAP_IRQCHIP); N("cap", KVM_CAP_USER_MEMORY); N("cap", KVM_CAP_SET_TSS_ADDR);
	N("cap", KVM_CAP_EXT_CPUID); N("cap", KVM_CAP_NR_VCPUS); N("cap", KVM_CAP_NR_MEMSLOTS);
	N("cap", KVM_CAP_MP_STATE); N("cap", KVM_CAP_IRQFD); N("cap", KVM_CAP_IOEVENTFD);
	N("cap", KVM_CAP_SET_IDENTITY_MAP_ADDR); N("cap", KVM_CAP_ADJUST_CLOCK); N("cap", KVM_CAP_VCPU_EVENTS);
	N("cap", KVM_CAP_DEBUGREGS); N("cap", KVM_CAP_XSAVE); N("cap", KVM_CAP_XCRS); N("cap", KVM_CAP_GET_TSC_KHZ);
	N("cap", KVM_CAP_MAX_VCPUS); N("cap", KVM_CAP_TSC_DEADLINE_TIMER); N("cap", KVM_CAP_IMMEDIATE_EXIT);
	N("cap", KVM_CAP_XSAVE2);

	N("exit", KVM_EXIT_UNKNOWN); N("exit", KVM_EXIT_EXCEPTION); N("exit", KVM_EXIT_IO); N("exit", KVM_EXIT_HYPERCALL);
	N("exit", KVM_EXIT_DEBUG); N("exit", KVM_EXIT_HLT); N("exit", KVM_EXIT_MMIO); N("exit", KVM_EXIT_IRQ_WINDOW_OPEN);
	N("exit", KVM_EXIT_SHUTDOWN); N("exit", KVM_EXIT_FAIL_ENTRY); N("exit", KVM_EXIT_INTR); N("exit", KVM_EXIT_SET_TPR);
	N("exit", KVM_EXIT_TPR_ACCESS); N("exit", KVM_EXIT_S390_SIEIC); N("exit", KVM_EXIT_S390_RESET); N("exit", KVM_EXIT_DCR);
	N("exit", KVM_EXIT_NMI); N("exit", KVM_EXIT_INTERNAL_ERROR); N("exit", KVM_EXIT_OSI); N("exit", KVM_EXIT_PAPR_HCALL);
	N("exit", KVM_EXIT_S390_UCONTROL); N("exit", KVM_EXIT_WATCHDOG); N("exit", KVM_EXIT_S390_TSCH); N("exit", KVM_EXIT_EPR);
	N("exit", KVM_EXIT_SYSTEM_EVENT); N("exit", KVM_EXIT_S390_STSI); N("exit", KVM_EXIT_IOAPIC_EOI); N("exit", KVM_EXIT_HYPERV);
	N("exit", KVM_EXIT_ARM_NISV); N("exit", KVM_EXIT_X86_RDMSR); N("exit", KVM_EXIT_X86_WRMSR);
	N("exit", KVM_EXIT_DIRTY_RING_FULL); N("exit", KVM_EXIT_AP_RESET_HOLD); N("exit", KVM_EXIT_X86_BUS_LOCK);
	N("exit", KVM_EXIT_XEN); N("exit", KVM_EXIT_RISCV_SBI); N("exit", KVM_EXIT_RISCV_CSR); N("exit", KVM_EXIT_NOTIFY);

	N("const", KVM_IRQFD_FLAG_DEASSIGN); N("const", KVM_IOEVENTFD_FLAG_DATAMATCH); N("const", KVM_IOEVENTFD_FLAG_DEASSIGN);
	N("const", KVM_CPUID_FLAG_SIGNIFCANT_INDEX); N("const", KVM_NR_IRQCHIPS); N("const", KVM_EXIT_IO_IN);
	N("const", KVM_MP_STATE_RUNNABLE); N("const", KVM_MP_STATE_UNINITIALIZED); N("const", KVM_MP_STATE_INIT_RECEIVED);
	N("const", KVM_MP_STATE_HALTED); N("const", KVM_MP_STATE_SIPI_RECEIVED); N("const", KVM_INTERNAL_ERROR_EMULATION);
	N("const", KVM_SYSTEM_EVENT_SHUTDOWN); N("const", KVM_SYSTEM_EVENT_RESET); N("const", KVM_SYSTEM_EVENT_CRASH);
	N("const", KVM_SYSTEM_EVENT_WAKEUP); N("const", KVM_SYSTEM_EVENT_SUSPEND); N("const", KVM_SYSTEM_EVENT_SEV_TERM);

	S(kvm_regs); F(kvm_regs, rsp); F(kvm_regs, r8); F(kvm_regs, rip); F(kvm_regs, rflags);
	S(kvm_segment); F(kvm_segment, limit); F(kvm_segment, selector); F(kvm_segment, type); F(kvm_segment, present);
	F(kvm_segment, dpl); F(kvm_segment, db); F(kvm_segment, s); F(kvm_segment, l); F(kvm_segment, g);
	F(kvm_segment, avl); F(kvm_segment, unusable);
	S(kvm_dtable); F(kvm_dtable, limit);
	S(kvm_sregs); F(kvm_sregs, ss); F(kvm_sregs, tr); F(kvm_sregs, ldt); F(kvm_sregs, gdt); F(kvm_sregs, idt);
	F(kvm_sregs, cr0); F(kvm_sregs, cr3); F(kvm_sregs, cr4); F(kvm_sregs, cr8); F(kvm_sregs, efer);
	F(kvm_sregs, apic_base); F(kvm_sregs, interrupt_bitmap);
	S(kvm_fpu); F(kvm_fpu, fcw); F(kvm_fpu, ftwx); F(kvm_fpu, last_opcode); F(kvm_fpu, last_ip); F(kvm_fpu, xmm); F(kvm_fpu, mxcsr);
	S(kvm_msr_entry); F(kvm_msr_entry, data); S(kvm_msrs); S(kvm_msr_list);
	S(kvm_lapic_state); S(kvm_mp_state); S(kvm_xcr); F(kvm_xcr, value); S(kvm_xcrs); F(kvm_xcrs, xcrs);
	S(kvm_vcpu_events); F(kvm_vcpu_events, interrupt); F(kvm_vcpu_events, nmi); F(kvm_vcpu_events, sipi_vector);
	F(kvm_vcpu_events, flags); F(kvm_vcpu_events, smi); F(kvm_vcpu_events, triple_fault);
	F(kvm_vcpu_events, exception_has_payload); F(kvm_vcpu_events, exception_payload);
	S(kvm_debugregs); F(kvm_debugregs, dr6); F(kvm_debugregs, dr7); F(kvm_debugregs, flags);
	S(kvm_clock_data); F(kvm_clock_data, flags); F(kvm_clock_data, realtime); F(kvm_clock_data, host_tsc);
	S(kvm_cpuid_entry2); F(kvm_cpuid_entry2, flags); F(kvm_cpuid_entry2, eax); F(kvm_cpuid_entry2, edx); S(kvm_cpuid2);
	S(kvm_userspace_memory_region); F(kvm_userspace_memory_region, guest_phys_addr);
	F(kvm_userspace_memory_region, memory_size); F(kvm_userspace_memory_region, userspace_addr);
	S(kvm_irq_level); F(kvm_irq_level, level); S(kvm_irqchip); F(kvm_irqchip, chip); S(kvm_xsave);
	S(kvm_irqfd); F(kvm_irqfd, gsi); F(kvm_irqfd, flags); F(kvm_irqfd, resamplefd);
	S(kvm_ioeventfd); F(kvm_ioeventfd, addr); F(kvm_ioeventfd, len); F(kvm_ioeventfd, fd); F(kvm_ioeventfd, flags);

	F(kvm_run, immediate_exit); F(kvm_run, exit_reason); F(kvm_run, hw); F(kvm_run, kvm_valid_regs);
	F(kvm_run, io.direction); F(kvm_run, io.size); F(kvm_run, io.port); F(kvm_run, io.count); F(kvm_run, io.data_offset);
	F(kvm_run, mmio.phys_addr); F(kvm_run, mmio.data); F(kvm_run, mmio.len); F(kvm_run, mmio.is_write);
	F(kvm_run, fail_entry.hardware_entry_failure_reason); F(kvm_run, ex.exception);
	F(kvm_run, internal.suberror); F(kvm_run, internal.ndata); F(kvm_run, internal.data);
	F(kvm_run, emulation_failure.flags); F(kvm_run, emulation_failure.insn_size); F(kvm_run, emulation_failure.insn_bytes);
	F(kvm_run, system_event.type); F(kvm_run, system_event.ndata); F(kvm_run, system_event.data);
	return 0;
}
