// The accelerator with a DRAM behind it and its registers in front, as a host sees it.
//
// With +trace=<path>, a line is written for every instruction that leaves its queue and for every
// semaphore that is raised. `still` goes high when nothing has moved for +still_cycles=<n> cycles of
// a run; what has happened until then stands in `started`, `raises`, `full` and `held`.
module testbench #(
  parameter int BUS_BITS = 64,
  parameter int STREAMS = 1  // between kernels; see the generated module `streams`
) (
  input logic aclk,
  input logic aresetn,
  output logic interrupt,
  output logic violation,

  input logic [11:0] s_axi_awaddr,
  input logic s_axi_awvalid,
  output logic s_axi_awready,
  input logic [31:0] s_axi_wdata,
  input logic s_axi_wvalid,
  output logic s_axi_wready,
  output logic [1:0] s_axi_bresp,
  output logic s_axi_bvalid,
  input logic s_axi_bready,
  input logic [11:0] s_axi_araddr,
  input logic s_axi_arvalid,
  output logic s_axi_arready,
  output logic [31:0] s_axi_rdata,
  output logic [1:0] s_axi_rresp,
  output logic s_axi_rvalid,
  input logic s_axi_rready
);
  logic [0:0] arid, rid, awid, bid;
  logic [63:0] araddr, awaddr;
  logic [7:0] arlen, awlen;
  logic [2:0] arsize, awsize;
  logic [1:0] arburst, awburst, rresp, bresp;
  logic arvalid, arready, rlast, rvalid, rready;
  logic awvalid, awready, wlast, wvalid, wready, bvalid, bready;
  logic [BUS_BITS-1:0] rdata, wdata;
  logic [BUS_BITS/8-1:0] wstrb;

  accelerator accelerator (
    .aclk, .aresetn, .interrupt,
    .s_axi_awaddr, .s_axi_awprot(3'd0), .s_axi_awvalid, .s_axi_awready,
    .s_axi_wdata, .s_axi_wstrb(4'hf), .s_axi_wvalid, .s_axi_wready,
    .s_axi_bresp, .s_axi_bvalid, .s_axi_bready,
    .s_axi_araddr, .s_axi_arprot(3'd0), .s_axi_arvalid, .s_axi_arready,
    .s_axi_rdata, .s_axi_rresp, .s_axi_rvalid, .s_axi_rready,
    .m_axi_arid(arid), .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arsize(arsize),
    .m_axi_arburst(arburst), .m_axi_arlock(), .m_axi_arcache(), .m_axi_arprot(), .m_axi_arqos(),
    .m_axi_arvalid(arvalid), .m_axi_arready(arready),
    .m_axi_rid(rid), .m_axi_rdata(rdata), .m_axi_rresp(rresp), .m_axi_rlast(rlast),
    .m_axi_rvalid(rvalid), .m_axi_rready(rready),
    .m_axi_awid(awid), .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awsize(awsize),
    .m_axi_awburst(awburst), .m_axi_awlock(), .m_axi_awcache(), .m_axi_awprot(), .m_axi_awqos(),
    .m_axi_awvalid(awvalid), .m_axi_awready(awready),
    .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast), .m_axi_wvalid(wvalid),
    .m_axi_wready(wready),
    .m_axi_bid(bid), .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(bready)
  );

  dram #(.BUS_BITS(BUS_BITS)) dram (
    .aclk, .aresetn, .violation,
    .s_axi_arid(arid), .s_axi_araddr(araddr), .s_axi_arlen(arlen), .s_axi_arsize(arsize),
    .s_axi_arburst(arburst), .s_axi_arvalid(arvalid), .s_axi_arready(arready),
    .s_axi_rid(rid), .s_axi_rdata(rdata), .s_axi_rresp(rresp), .s_axi_rlast(rlast),
    .s_axi_rvalid(rvalid), .s_axi_rready(rready),
    .s_axi_awid(awid), .s_axi_awaddr(awaddr), .s_axi_awlen(awlen), .s_axi_awsize(awsize),
    .s_axi_awburst(awburst), .s_axi_awvalid(awvalid), .s_axi_awready(awready),
    .s_axi_wdata(wdata), .s_axi_wstrb(wstrb), .s_axi_wlast(wlast), .s_axi_wvalid(wvalid),
    .s_axi_wready(wready),
    .s_axi_bid(bid), .s_axi_bresp(bresp), .s_axi_bvalid(bvalid), .s_axi_bready(bready)
  );

  // --- Trace: lines "issue cycle unit" and "raise cycle source unit"
  wire [$bits(accelerator.core.issue)-1:0] issue = accelerator.core.issue;
  wire [$bits(accelerator.core.raise)-1:0] raised = accelerator.core.raise;
  localparam int UNITS = $bits(issue);
  string path;
  int file = 0;
  longint unsigned cycle;
  initial if ($value$plusargs("trace=%s", path)) file = $fopen(path, "w");
  always_ff @(posedge aclk) begin
    cycle <= aresetn ? cycle + 1 : 0;
    if (file != 0 && issue != 0)
      for (int unit = 0; unit < UNITS; unit++)
        if (issue[unit]) $fwrite(file, "issue %0d %0d\n", cycle, unit);
    if (file != 0 && raised != 0)
      for (int pair = 0; pair < $bits(raised); pair++)
        if (raised[pair])
          $fwrite(file, "raise %0d %0d %0d\n", cycle, pair / UNITS, pair % UNITS);
  end
  final if (file != 0) $fclose(file);

  // --- Whether anything moves, and what has
  wire [STREAMS-1:0] full, held;  // the source has no room; the sink does not take
  streams streams (.full, .held);

  logic [UNITS-1:0][31:0] started;  // instructions of each unit
  logic [$bits(raised)-1:0][31:0] raises;  // of each semaphore, source by source
  int unsigned still_cycles = 20_000;
  int unsigned idle_cycles;
  wire still = idle_cycles >= still_cycles;
  wire moves = |issue | |raised
    | arvalid & arready | rvalid & rready | awvalid & awready | wvalid & wready | bvalid & bready
    | accelerator.core.event_load | accelerator.core.event_compute
    | accelerator.core.event_epilogue | accelerator.core.event_softmax
    | accelerator.core.event_norm | accelerator.core.event_store
    | accelerator.core.event_instruction;
  initial void'($value$plusargs("still_cycles=%d", still_cycles));
  always_ff @(posedge aclk) begin
    idle_cycles <= moves || accelerator.shell.idle ? 0 : idle_cycles + 1;
    for (int unit = 0; unit < UNITS; unit++)
      if (issue[unit]) started[unit] <= started[unit] + 1;
    if (|raised)
      for (int pair = 0; pair < $bits(raised); pair++)
        if (raised[pair]) raises[pair] <= raises[pair] + 1;
    if (accelerator.core_rst) begin
      started <= '0;
      raises <= '0;
    end
  end
endmodule
